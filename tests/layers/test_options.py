"""The recipe's options: L1 in place of top-k, random K, shared experts, rows of unit norm."""

from typing import Any

import pytest
import torch
from tests.layers._examples import SPARSE, UNITS, K, filled, fresh, inputs

from mxd.layers import MxD, MxDConfig, SparseLayer

UNIT_NORM = ["mxd", "mxd-glu", "transcoder", "topk-autoencoder"]


def sparse(kind: str, **options: Any) -> SparseLayer:
    layer = filled(kind, **options)
    assert isinstance(layer, SparseLayer)
    return layer


@pytest.mark.parametrize("kind", ["mxd", "transcoder", "skip-transcoder", "mlp-transcoder"])
def test_l1_encodes_every_positive_unit(kind: str) -> None:
    layer = sparse(kind, sparsity="l1")
    x = inputs(layer, 4, 5)
    dense = torch.relu(layer.gate_linear(x))
    codes = layer.encode(x)
    torch.testing.assert_close(codes.dense(), dense)
    assert codes.values.shape[-1] == int((dense > 0).sum(-1).max()) > K


def test_l1_and_k_keeps_the_k_largest() -> None:
    layer, topk = sparse("mxd", sparsity="l1"), sparse("mxd")
    x = inputs(layer, 6)
    torch.testing.assert_close(layer.encode(x, K).dense(), topk.encode(x).dense())


def test_l1_with_no_positive_unit_or_no_token_still_gives_codes() -> None:
    layer = sparse("mxd", sparsity="l1")
    assert layer.encode(inputs(layer, 0)).values.shape == (0, 1)
    with torch.no_grad():
        layer.gate_linear.bias.fill_(-1e6)
    assert layer.encode(inputs(layer, 6)).values.tolist() == [[0.0]] * 6


def test_l1_beside_shared_experts_keeps_both() -> None:
    layer = sparse("mxd-shared", sparsity="l1")
    x = inputs(layer, 6)
    expected = torch.relu(layer.gate_linear(x))
    expected[:, :2] = 1
    torch.testing.assert_close(layer.encode(x).dense(), expected)


@pytest.mark.parametrize(
    ("k", "units", "low", "high"),
    [(8, 100, 4, 12), (5, 100, 3, 7), (1, 100, 1, 1), (2, 100, 1, 3), (8, 10, 4, 10), (8, 8, 4, 8)],
)
def test_random_k_draws_from_half_of_k_to_one_and_a_half(
    k: int, units: int, low: int, high: int
) -> None:
    config = MxDConfig(d_in=2, d_out=2, d_hidden=2, n_experts=units, k=k, random_k=True)
    layer, generator = MxD(config), torch.Generator().manual_seed(0)
    draws = {layer.training_k(generator) for _ in range(400)}
    assert draws == set(range(low, high + 1))


def test_random_k_follows_its_generator_and_no_other() -> None:
    layer = sparse("mxd", random_k=True)

    def draws() -> list[int]:
        generator = torch.Generator().manual_seed(7)
        return [layer.training_k(generator) for _ in range(50)]

    first = draws()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert draws() == first
    assert torch.equal(torch.get_rng_state(), state)


def test_random_k_leaves_encode_alone() -> None:
    layer = sparse("mxd", random_k=True)
    x = inputs(layer, 6)
    for _ in range(20):
        assert layer.eval().encode(x).values.shape == (6, K)
    assert fresh("mxd").training_k() == K  # type: ignore[attr-defined]


def test_random_k_always_leaves_a_choice_beside_shared_experts() -> None:
    config = MxDConfig(
        d_in=2, d_out=2, d_hidden=2, n_experts=9, k=5, random_k=True, shared_experts=4
    )
    layer = MxD(config)
    draws = {layer.training_k() for _ in range(200)}
    assert draws == {5, 6, 7}
    for k in draws:
        assert layer.encode(torch.randn(3, 2), k).values.shape == (3, k)


def test_shared_experts_are_always_on_and_never_chosen_again() -> None:
    layer = sparse("mxd-shared")
    with torch.no_grad():
        layer.gate_linear.bias[:2] = 1e6  # would win every choice
    codes = layer.encode(inputs(layer, 200))
    assert codes.values.shape == (200, K)
    assert (codes.values[:, :2] == 1).all()
    assert codes.indices[:, :2].tolist() == [[0, 1]] * 200
    assert (codes.indices[:, 2:] >= 2).all()
    assert set(codes.indices[:, 2].tolist()) <= set(range(2, UNITS))
    assert (codes.dense()[:, :2] == 1).all()


def test_shared_experts_teach_their_modulators_but_no_gate() -> None:
    layer = sparse("mxd-shared")
    layer(inputs(layer, 50)).square().sum().backward()
    gate, modulators = layer.gate_linear.weight.grad, layer.unit_rows.grad
    assert gate is not None
    assert modulators is not None
    assert not gate[:2].any()
    assert gate[2:].any(-1).any()
    assert modulators[:2].any(-1).all()


@pytest.mark.parametrize("kind", UNIT_NORM)
def test_unit_norm_starts_with_unit_rows(kind: str) -> None:
    layer = fresh(kind, unit_norm=True)
    assert isinstance(layer, SparseLayer)
    torch.testing.assert_close(layer.unit_rows.norm(dim=-1), torch.ones(UNITS))
    plain = fresh(kind)
    assert isinstance(plain, SparseLayer)
    assert not torch.allclose(plain.unit_rows.norm(dim=-1), torch.ones(UNITS))


@pytest.mark.parametrize("kind", SPARSE)
def test_normalise_units_keeps_directions_and_rows_of_zeros(kind: str) -> None:
    layer = sparse(kind)
    with torch.no_grad():
        layer.unit_rows[3] = 0
    before = layer.unit_rows.detach().clone()
    layer.normalise_units()
    norms = layer.unit_rows.norm(dim=-1)
    assert norms[3] == 0
    keep = torch.arange(UNITS) != 3
    torch.testing.assert_close(norms[keep], torch.ones(UNITS - 1).double())
    along = (layer.unit_rows * before).sum(-1)
    torch.testing.assert_close(along, before.norm(dim=-1))


@pytest.mark.parametrize("kind", SPARSE)
def test_remove_parallel_gradient_leaves_what_is_orthogonal_to_each_row(kind: str) -> None:
    layer = sparse(kind)
    layer.remove_parallel_gradient()  # without a gradient there is nothing to do
    with torch.no_grad():
        layer.unit_rows[3] = 0
    gradient = torch.randn_like(layer.unit_rows)
    layer.unit_rows.grad = gradient.clone()
    layer.remove_parallel_gradient()
    rows, left = layer.unit_rows.detach(), layer.unit_rows.grad
    assert (left * rows).sum(-1).abs().max() < 1e-12
    assert torch.equal(left[3], gradient[3])
    removed = gradient - left  # lies along the row
    across = removed - rows * (removed * rows).sum(-1, keepdim=True) / rows.square().sum(
        -1, keepdim=True
    ).clamp_min(1e-300)
    assert across.abs().max() < 1e-12
