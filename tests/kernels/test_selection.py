"""How the gate chooses: exact two-level search, tiles and merging, candidates in half precision."""

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.test_agreement import (
    assert_agree,
    assert_near,
    combine_inputs,
    gate_inputs,
    values_and_gradients,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mxd.errors import NotANumberError, UserError
from mxd.kernels import combine, gate, naive
from mxd.kernels._largest import _group_size, largest

SELECT = importlib.import_module("mxd.kernels._select")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 5), st.integers(1, 700), st.data())
def test_largest_is_topk(rows: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, min(n, 40)), label="k")
    values = data.draw(st.sampled_from([2, 50, 10**6]), label="distinct values")
    torch.manual_seed(n)
    table = torch.randint(values, (rows, n)).double()
    found, expected = largest(table, k), table.topk(k, dim=-1)
    assert torch.equal(found.values, expected.values)  # of equal values either may be kept
    assert torch.equal(table.gather(1, found.indices), found.values)
    assert all(len(set(row.tolist())) == k for row in found.indices)


@pytest.mark.parametrize(("n", "k"), [(700, 3), (701, 1), (4096, 32), (5000, 128), (64, 1)])
def test_largest_searches_groups_and_what_is_left_over(n: int, k: int) -> None:
    assert _group_size(n, k) > 1
    table = torch.randn(9, n)
    table[0, -1] = table[1, 0] = 100.0  # the ends of a row
    table[2] = table[2].sort().values  # the best in one stretch, all in different groups
    table[3] = 0
    table[3, :: max(1, n // k)] = torch.arange(len(table[3, :: max(1, n // k)])).float()
    found, expected = largest(table, k), table.topk(k, dim=-1)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.indices[:3], expected.indices[:3])


def test_largest_takes_views_and_counts_nan_and_infinity_as_topk_does() -> None:
    wide = torch.randn(6, 1000)
    wide[0, 3], wide[1, 5], wide[2] = torch.nan, torch.inf, -torch.inf
    for view in (wide[:, :700], wide[:, 1::2], wide[::2]):
        found = largest(view, 4)
        torch.testing.assert_close(found.values, view.topk(4).values, equal_nan=True)
    assert largest(wide, 4).indices[0, 0] == 3


@pytest.mark.parametrize("merge", [1, 40])
@pytest.mark.parametrize("elements", [1, 60, 333, 5000])
@pytest.mark.parametrize("tokens", [1, 4, 1000])
def test_gate_does_not_depend_on_tiles_chunks_and_merging(
    tokens: int, elements: int, merge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SELECT, "_TILE_TOKENS", tokens)
    monkeypatch.setattr(SELECT, "_TILE_ELEMENTS", elements)
    monkeypatch.setattr(SELECT, "_MERGE_COLUMNS", merge)
    for n, k in ((301, 5), (7, 7), (1, 1)):
        inputs = gate_inputs((23,), 5, n, k, torch.float64)
        assert_agree(gate, naive.gate, inputs, torch.randn(23, k, dtype=torch.float64), 1e-10)


class Widest(TorchDispatchMode):
    """Notes how many elements the largest new tensor has, those of given shapes left out."""

    def __init__(self, *expected: tuple[int, ...]) -> None:
        super().__init__()
        self.expected, self.elements = set(expected), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        known = {a.untyped_storage().data_ptr() for a in args if self._dense(a)}
        for one in found if isinstance(found, tuple | list) else (found,):
            made = self._dense(one) and one.untyped_storage().data_ptr() not in known
            if made and tuple(one.shape) not in self.expected:
                self.elements = max(self.elements, one.numel())
        return found

    @staticmethod
    def _dense(value: Any) -> bool:
        return isinstance(value, Tensor) and value.layout == torch.strided


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_step_makes_nothing_wider_than_a_tile(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, n, d, k, tile = 64, 3000, 12, 4, 4000
    monkeypatch.setattr(SELECT, "_TILE_ELEMENTS", tile)
    monkeypatch.setattr(SELECT, "_TILE_TOKENS", 16)
    x, weight, bias, _ = gate_inputs((tokens,), d, n, k, torch.float32)
    table = torch.randn(n, d)
    for leaf in (weight, bias, table):
        leaf.requires_grad_()

    def step(choose: Any, mix: Any) -> int:
        with Widest() as seen, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            values, indices = choose(x, weight, bias, k)
            loss = mix(values, indices, table).float().square().sum()
        widest = seen.elements
        with Widest((n, d)) as seen:  # the gradients themselves
            loss.backward()
        return max(widest, seen.elements)

    assert step(gate, combine) <= max(tile, n + 1)
    assert step(naive.gate, naive.combine) >= tokens * n


def _unlike(weight: Tensor) -> Tensor:
    """Rows whose products with an input lie far apart, so that rounding changes no order."""
    return weight * torch.logspace(0, 3, len(weight)).unsqueeze(1)


def test_candidates_in_bf16_are_rescored_in_float32() -> None:
    x, weight, bias, k = gate_inputs((50,), 64, 400, 16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        values, indices = gate(x, weight, bias, k)
    assert values.dtype == torch.float32
    exact = torch.relu(x.double() @ weight.double().T + bias.double())
    torch.testing.assert_close(values.double(), exact.gather(1, indices), rtol=1e-5, atol=1e-5)
    assert (values[:, :-1] >= values[:, 1:]).all()
    wanted = exact.topk(k).indices
    recall = (indices.unsqueeze(2) == wanted.unsqueeze(1)).any(1).double().mean()
    plain = (x.bfloat16() @ weight.bfloat16().T + bias.bfloat16()).topk(k).indices
    without = (plain.unsqueeze(2) == wanted.unsqueeze(1)).any(1).double().mean()
    assert recall > 0.999
    assert recall > without


@pytest.mark.parametrize(
    ("batch", "n", "k"), [((9,), 30, 4), ((2, 3), 30, 30), ((4,), 1, 1), ((0,), 8, 2)]
)
def test_rescored_gate_has_the_gradients_of_the_plain_one(batch: Any, n: int, k: int) -> None:
    x, weight, bias, _ = gate_inputs(batch, 8, n, k, torch.float32)
    weigh = torch.randn(*batch, k)

    def rescored(*leaves: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return gate(*leaves)

    assert_agree(rescored, naive.gate, [x, _unlike(weight), bias, k], weigh, 1e-5)


SHAPES = [((6,), 12, 12), ((2, 3), 12, 5), ((6,), 12, 1), ((3,), 1, 1), ((0,), 12, 3), ((), 7, 2)]
"""Batch, N, K."""
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32", "bf16"])


def _gathered(chosen: Tensor) -> Any:
    """The plain gate for a given choice: of units as good as equal either may be taken."""

    def gate_of(x: Tensor, weight: Tensor, bias: Tensor, _: int) -> tuple[Tensor, Tensor]:
        return torch.relu(x @ weight.T + bias).gather(-1, chosen), chosen

    return gate_of


def _strided(tensor: Tensor) -> Tensor:
    """The same values with a gap after each."""
    return torch.stack([tensor, tensor], -1)[..., 0]


def assert_gate_and_combine(x: Tensor, weight: Tensor, bias: Tensor, k: int, wide: int = 7) -> None:
    """Forward and every gradient through both, against float64 on the units that were chosen."""
    dtype, table = x.dtype, torch.randn(len(weight), wide).to(x.dtype)
    weigh = torch.randn(*x.shape[:-1], wide).to(dtype)
    chosen = gate(x, weight, bias, k)[1]

    def both(choose: Any, mix: Any, views: Any, *leaves: Tensor) -> Any:
        x, weight, bias, table = (views(leaf) for leaf in leaves)
        values, indices = choose(x, weight, bias, k)
        return mix(values, indices, table)

    leaves = [x, weight, bias, table]
    oracle = [leaf.double() for leaf in leaves]
    expected, gradients = values_and_gradients(
        lambda *of: both(_gathered(chosen), naive.combine, lambda t: t, *of), oracle, weigh.double()
    )
    for views in (lambda t: t, _strided):
        got = values_and_gradients(
            lambda *of, views=views: both(gate, combine, views, *of), leaves, weigh
        )
        for mine, exact in zip([got[0], *got[1]], [expected, *gradients], strict=True):
            assert mine.dtype == dtype
            assert_near(mine.double(), exact, TOLERANCE[dtype])


@each_dtype
@pytest.mark.parametrize(("batch", "n", "k"), SHAPES)
def test_every_gradient_of_every_shape_and_dtype(
    batch: Any, n: int, k: int, dtype: torch.dtype
) -> None:
    x, weight, bias, _ = gate_inputs(batch, 8, n, k, dtype)
    assert_gate_and_combine(x, weight, bias, k)


@each_dtype
@pytest.mark.parametrize("k", [1, 4, 18])
def test_every_gradient_where_units_tie(k: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-1, 2, (6, 3)).repeat_interleave(3, 0).to(dtype)
    x = torch.randint(-2, 3, (40, 3)).to(dtype)
    assert_gate_and_combine(x, weight, torch.zeros(18, dtype=dtype), k)


@each_dtype
def test_row_products_without_sampled_products_are_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that they take without MKL, and on accelerators without Triton."""
    rows = importlib.import_module("mxd.kernels._torch_rows")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    grad, table = torch.randn(9, 5).to(dtype), torch.randn(12, 5).to(dtype)
    indices = torch.randint(12, (9, 3))
    exact = (grad.double().unsqueeze(1) * table.double()[indices]).sum(-1)
    for elements in (1, 31, 10**6):
        monkeypatch.setattr(rows, "_TILE_ELEMENTS", elements)
        found = rows.row_products(grad, indices, table)
        assert_near(found.double(), exact, TOLERANCE[dtype])


@pytest.mark.parametrize("skip", [0, 1, 5])
def test_skipped_units_are_never_chosen_and_cost_no_second_gradient(skip: int) -> None:
    x, weight, bias, _ = gate_inputs((6,), 5, 12, 3, torch.float64)
    bias[:skip] = 100.0
    weigh = torch.randn(6, 3, dtype=torch.float64)

    def skipping(function: Any) -> Any:
        return lambda *leaves: function(*leaves, skip=skip)

    assert_agree(skipping(gate), skipping(naive.gate), [x, weight, bias, 3], weigh, 1e-12)
    assert (gate(x, weight, bias, 3, skip=skip)[1] >= skip).all()
    with pytest.raises(UserError, match=f"expected 1 to {12 - skip}"):
        gate(x, weight, bias, 13 - skip, skip=skip)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (5,)])
def test_gate_refuses_nan(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight, bias, k = gate_inputs(shape[:-1], 5, 7, 3, dtype)
    gate(x, weight, bias, k)
    x.view(-1)[-1] = torch.inf
    gate(x, weight, bias, k)  # infinity alone is a number
    x.view(-1)[-1] = torch.nan
    with pytest.raises(NotANumberError, match=r"got NaN in a layer's input, expected numbers"):
        gate(x, weight, bias, k)


@pytest.mark.parametrize("k", [0, 8])
def test_gate_refuses_a_k_that_is_no_number_of_units(k: int) -> None:
    x, weight, bias, _ = gate_inputs((6,), 5, 7, 3, torch.float32)
    with pytest.raises(UserError, match=f"got k={k}, expected 1 to 7"):
        gate(x, weight, bias, k)


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    values, indices, table = combine_inputs((4,), 6, 3, 2, torch.float64)
    values.requires_grad_()
    loss = combine(values, indices, table).square().sum()
    (first,) = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
