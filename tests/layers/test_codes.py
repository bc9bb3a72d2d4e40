"""Codes: always k columns, valid indices, and what steering makes of them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.layers._examples import SPARSE, UNITS, K, filled, inputs

from mxd.errors import UserError
from mxd.layers import Codes, MxD, SparseLayer

each_kind = pytest.mark.parametrize("kind", SPARSE)


def sparse(kind: str, **options: Any) -> SparseLayer:
    layer = filled(kind, **options)
    assert isinstance(layer, SparseLayer)
    return layer


@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)], ids=str)
@each_kind
def test_encode_gives_k_columns(kind: str, batch: tuple[int, ...]) -> None:
    layer = sparse(kind)
    codes = layer.encode(inputs(layer, *batch))
    assert codes.values.shape == codes.indices.shape == (*batch, K)
    assert codes.indices.dtype == torch.int64
    assert codes.n_units == UNITS
    assert (codes.values >= 0).all()


@each_kind
def test_encode_gives_unused_slots_zero_and_a_valid_unit(kind: str) -> None:
    layer = sparse(kind)
    with torch.no_grad():
        layer.gate_linear.bias.fill_(-1e6)
    codes = layer.encode(inputs(layer, 6))
    shared = layer.config.shared_experts if isinstance(layer, MxD) and "shared" in kind else 0
    assert not codes.values[:, shared:].any()
    assert codes.values.shape == (6, K)
    assert ((codes.indices >= 0) & (codes.indices < UNITS)).all()
    assert all(len(set(row)) == K for row in codes.indices.tolist())


@pytest.mark.parametrize("k", [1, 2, 5, UNITS])
@pytest.mark.parametrize("kind", ["mxd", "transcoder", "topk-autoencoder"])
def test_k_overrides_the_configured_one(kind: str, k: int) -> None:
    layer = sparse(kind)
    x = inputs(layer, 6)
    codes = layer.encode(x, k)
    assert codes.values.shape == (6, k)
    small, large = sorted((k, K))
    assert torch.equal(layer.encode(x, small).values, layer.encode(x, large).values[:, :small])


def test_more_units_than_there_are_gives_them_all() -> None:
    layer = sparse("mxd")
    assert layer.encode(inputs(layer, 6), 1000).values.shape == (6, UNITS)


@pytest.mark.parametrize(("kind", "k"), [("mxd", 0), ("transcoder", -3), ("mxd-shared", 2)])
def test_too_small_a_k_is_refused(kind: str, k: int) -> None:
    layer = sparse(kind)
    least = 3 if kind == "mxd-shared" else 1
    with pytest.raises(UserError, match=f"got k={k}, expected at least {least}"):
        layer.encode(inputs(layer, 6), k)


def test_codes_unpack_into_values_and_indices() -> None:
    codes = Codes(torch.rand(4, 2), torch.randint(5, (4, 2)), 5)
    values, indices = codes
    assert values is codes.values
    assert indices is codes.indices


def test_dense_puts_every_value_at_its_unit_and_sums_repeats() -> None:
    codes = Codes(
        torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, 0.0]]), torch.tensor([[2, 0, 2], [1, 0, 0]]), 4
    )
    assert codes.dense().tolist() == [[2.0, 0.0, 1.5, 0.0], [0.0, 3.0, 0.0, 0.0]]


def test_dense_without_the_number_of_units_says_what_to_do() -> None:
    with pytest.raises(UserError, match="do not say N"):
        Codes(torch.rand(4, 2), torch.randint(5, (4, 2))).dense()


def test_dense_carries_gradients() -> None:
    values = torch.rand(4, 2, requires_grad=True)
    Codes(values, torch.tensor([[0, 1]] * 4), 3).dense().square().sum().backward()
    torch.testing.assert_close(values.grad, 2 * values)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(SPARSE)),
    st.lists(st.tuples(st.integers(0, UNITS - 1), st.floats(-100, 100)), max_size=4),
    st.lists(st.integers(0, 3), max_size=2),
)
def test_steering_codes_equals_steering_the_dense_vector(
    kind: str, steps: list[tuple[int, float]], batch: list[int]
) -> None:
    layer = sparse(kind)
    x = inputs(layer, *batch)
    codes = layer.encode(x)
    dense = codes.dense()
    for unit, strength in steps:
        codes = codes.plus(unit, strength)
        dense = dense + strength * torch.eye(UNITS, dtype=dense.dtype)[unit]
    assert codes.values.shape == (*batch, K + len(steps))
    torch.testing.assert_close(codes.dense(), dense)
    steered = layer.decode(codes, x)
    everything = torch.arange(UNITS).expand(*batch, UNITS)
    expected = layer.decode(Codes(dense, everything, UNITS), x)
    torch.testing.assert_close(steered, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        layer.contribution(codes, x) - layer.contribution(layer.encode(x), x),
        steered - layer(x),
        rtol=1e-9,
        atol=1e-9,
    )


def test_plus_leaves_the_codes_it_starts_from_alone() -> None:
    codes = Codes(torch.rand(4, 2), torch.randint(5, (4, 2)), 5)
    steered = codes.plus(3, 100)
    assert codes.values.shape == (4, 2)
    assert steered.n_units == 5
    assert steered.values[:, -1].tolist() == [100.0] * 4
    assert steered.indices[:, -1].tolist() == [3] * 4


@pytest.mark.parametrize("unit", [-1, 5])
def test_plus_refuses_a_unit_that_does_not_exist(unit: int) -> None:
    codes = Codes(torch.rand(4, 2), torch.randint(5, (4, 2)), 5)
    with pytest.raises(UserError, match=f"got unit {unit}, expected 0 to 4"):
        codes.plus(unit, 1.0)
