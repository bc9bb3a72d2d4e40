"""The Triton kernels against float64 oracles: interpreted on a CPU, compiled where there is a GPU.

`test_triton.py` runs these in a process of their own: Triton reads `TRITON_INTERPRET` when it is
imported, which another test may have caused already. By hand:

    TRITON_INTERPRET=1 python -m pytest tests/kernels/triton_cases.py
"""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mxd.kernels import combine, gate, naive
from mxd.kernels import triton as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32", "bf16"])
SHAPES = {  # tokens, n, k, d
    "odd": (5, 11, 3, 21),
    "d-over-one-block": (3, 7, 2, 300),
    "k-over-one-block": (2, 13, 19, 17),
    "k-is-1": (4, 9, 1, 5),
    "k-is-n": (4, 6, 6, 5),
    "n-is-1": (3, 1, 1, 4),
    "all-widths-1": (1, 1, 1, 1),
    "no-tokens": (0, 7, 3, 4),
}
each_shape = pytest.mark.parametrize(("tokens", "n", "k", "d"), SHAPES.values(), ids=SHAPES.keys())


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def units(tokens: int, k: int, n: int) -> Tensor:
    """With replacement: a unit may stand twice in a row."""
    return torch.randint(n, (tokens, k), generator=torch.Generator().manual_seed(1)).to(DEVICE)


def assert_near(got: Tensor, oracle: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    """Against a float64 oracle, relative to its largest entry."""
    assert got.shape == oracle.shape
    assert got.dtype == dtype
    assert oracle.dtype == torch.float64
    scale = float(oracle.abs().max()) if oracle.numel() else 1.0
    torch.testing.assert_close(got.double(), oracle, rtol=0, atol=tolerance * scale)


def dense_scatter(coefficients: Tensor, indices: Tensor, rows: Tensor, n: int) -> Tensor:
    """A (n × tokens) matrix, N-wide and float64, times the rows."""
    matrix = torch.zeros(len(rows), n, dtype=torch.float64, device=rows.device)
    matrix.scatter_add_(1, indices, coefficients.double())
    return matrix.T @ rows.double()


@each_dtype
@each_shape
def test_weighted_rows_are_a_dense_product(
    tokens: int, n: int, k: int, d: int, dtype: torch.dtype
) -> None:
    values, indices, table = (
        randn(tokens, k, dtype=dtype),
        units(tokens, k, n),
        randn(n, d).to(dtype),
    )
    oracle = torch.einsum("tk,tkd->td", values.double(), table.double()[indices])
    assert_near(kernels.weighted_rows(values, indices, table), oracle, dtype, TOLERANCE[dtype])


@each_dtype
@each_shape
def test_row_products_are_dot_products(
    tokens: int, n: int, k: int, d: int, dtype: torch.dtype
) -> None:
    grad, indices, table = randn(tokens, d, dtype=dtype), units(tokens, k, n), randn(n, d).to(dtype)
    oracle = torch.einsum("td,tkd->tk", grad.double(), table.double()[indices])
    assert_near(kernels.row_products(grad, indices, table), oracle, dtype, TOLERANCE[dtype])


@each_dtype
@each_shape
def test_scatter_rows_is_a_dense_product(
    tokens: int, n: int, k: int, d: int, dtype: torch.dtype
) -> None:
    values, indices, rows = (
        randn(tokens, k).to(dtype),
        units(tokens, k, n),
        randn(tokens, d).to(dtype),
    )
    oracle = dense_scatter(values, indices, rows, n)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = TOLERANCE[wide]  # bf16 terms are summed in float32
    assert_near(kernels.scatter_rows(values, indices, rows, n), oracle, wide, tolerance)


@pytest.mark.parametrize("where", ["first", "middle", "last", "all", "several"])
def test_scatter_rows_cuts_a_hot_unit_into_pieces(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("mxd.kernels.triton._scatter"), "_PIECE", 4)
    tokens, k, n, d = 13, 3, 8, 6
    indices = units(tokens, k, n)
    if where == "all":
        indices = torch.full_like(indices, 7)
    elif where == "several":  # three hot units side by side, and the rest empty
        indices = indices % 3 + 4
    else:
        indices[:, 0] = {"first": 0, "middle": 5, "last": n - 1}[where]
    values, rows = randn(tokens, k), randn(tokens, d)
    got = kernels.scatter_rows(values, indices, rows, n)
    assert_near(got, dense_scatter(values, indices, rows, n), torch.float32, 1e-6)
    assert torch.equal(got, kernels.scatter_rows(values, indices, rows, n))


@pytest.mark.parametrize("length", [1, 8, 9, 16])
def test_scatter_rows_cuts_at_every_boundary(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("mxd.kernels.triton._scatter"), "_PIECE", 8)
    lengths = [length, 3, length, 8, 9]  # terms of units 0 to 4
    indices = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths)).to(DEVICE)[:, None]
    values, rows = randn(len(indices), 1), randn(len(indices), 3)
    got = kernels.scatter_rows(values, indices, rows, 6)
    assert_near(got, dense_scatter(values, indices, rows, 6), torch.float32, 1e-6)
    assert not got[5].any()


def test_scatter_rows_sums_half_precision_in_float32() -> None:
    ones = torch.ones(600, 1, dtype=torch.bfloat16, device=DEVICE)  # bf16 stops counting at 256
    indices = torch.zeros(600, 1, dtype=torch.int64, device=DEVICE)
    assert kernels.scatter_rows(ones, indices, ones, 2).tolist() == [[600.0], [0.0]]


def test_masked_lanes_do_not_read_what_is_not_finite() -> None:
    table = randn(4, 5)
    table[0] = float("nan")  # what masked lanes point to
    indices = torch.tensor([[1, 2, 3]], device=DEVICE)
    assert kernels.weighted_rows(randn(1, 3), indices, table).isfinite().all()
    assert kernels.row_products(randn(1, 5), indices, table).isfinite().all()
    rows = randn(3, 5)
    rows[0] = float("nan")
    coefficients = randn(3, 1)
    sums = kernels.scatter_rows(coefficients, torch.tensor([[0], [1], [1]], device=DEVICE), rows, 2)
    assert sums[0].isnan().all()
    assert sums[1].isfinite().all()


def test_kernels_take_inputs_that_are_not_contiguous() -> None:
    values, indices = randn(3, 5).T, units(3, 5, 9).T
    table, rows = randn(6, 9).T, randn(6, 10).T[::2]
    plain = [t.contiguous() for t in (values, indices, table, rows)]
    assert not any(t.is_contiguous() for t in (values, indices, table, rows))
    for name, arguments in {
        "weighted_rows": (0, 1, 2),
        "row_products": (3, 1, 2),
        "scatter_rows": (0, 1, 3),
    }.items():
        function: Callable[..., Tensor] = getattr(kernels, name)
        more = (9,) if name == "scatter_rows" else ()
        viewed = [(values, indices, table, rows)[i] for i in arguments]
        assert torch.equal(
            function(*viewed, *more), function(*(plain[i] for i in arguments), *more)
        )
    pre, bias = randn(70, 4).T, randn(140)[::2]
    for got, oracle in zip(
        kernels.top_k_rows(pre, 2, bias),
        kernels.top_k_rows(pre.contiguous(), 2, bias.contiguous()),
        strict=True,
    ):
        assert torch.equal(got, oracle)
    sliced = randn(3, 100)[:, 10:80]  # rows further apart than they are long
    assert torch.equal(kernels.top_k_rows(sliced, 3)[0], sliced.topk(3).values)


def assert_chosen(got: tuple[Tensor, Tensor], pre: Tensor, k: int) -> None:
    """torch.topk's values, and k different units that have them."""
    values, indices = got
    oracle = pre.topk(k, dim=-1).values
    assert values.dtype == pre.dtype
    assert indices.dtype == torch.int64
    torch.testing.assert_close(values, oracle, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(pre.gather(1, indices), oracle, rtol=0, atol=0, equal_nan=True)
    assert all(len(set(row)) == k for row in indices.tolist())


TOP_K = {  # tokens, n, k
    "two-levels": (4, 70, 3),
    "groups-exactly": (4, 64, 2),
    "one-over": (4, 65, 2),
    "k-is-1": (5, 37, 1),
    "k-is-n": (3, 8, 8),
    "n-is-1": (3, 1, 1),
    "wide": (2, 2500, 5),
    "no-tokens": (0, 70, 3),
}


@each_dtype
@pytest.mark.parametrize(("tokens", "n", "k"), TOP_K.values(), ids=TOP_K.keys())
def test_top_k_rows_are_those_of_torch(tokens: int, n: int, k: int, dtype: torch.dtype) -> None:
    pre = randn(tokens, n, dtype=dtype)
    assert_chosen(kernels.top_k_rows(pre, k), pre, k)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_top_k_rows_with_ties_keeps_the_same_values(k: int) -> None:
    pre = randn(6, 90).round()
    assert_chosen(kernels.top_k_rows(pre, k), pre, k)
    assert_chosen(kernels.top_k_rows(torch.zeros_like(pre), k), torch.zeros_like(pre), k)


def test_top_k_rows_takes_nan_for_the_largest() -> None:
    pre = randn(3, 90)
    pre[0, 5] = float("nan")
    pre[1, [2, 3, 40, 80]] = float("inf")  # more infinities than the two that are wanted
    pre[1, 60] = float("nan")
    assert_chosen(kernels.top_k_rows(pre, 2), pre, 2)


def test_top_k_rows_names_units_that_exist_where_all_is_minus_infinity() -> None:
    pre = torch.full((2, 65), float("-inf"), device=DEVICE)
    values, indices = kernels.top_k_rows(pre, 3)
    assert (values == float("-inf")).all()
    assert ((indices >= 0) & (indices < 65)).all()


@pytest.fixture
def small_workspace(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make chunks and tiles that tiny inputs need several of."""

    def shrink(size: int) -> None:
        module = importlib.import_module("mxd.kernels.triton._select")
        for name, value in {"_WORKSPACE": size, "_LEAST_TOKENS": 3, "_ALIGNMENT": 8}.items():
            monkeypatch.setattr(module, name, value)

    return shrink


SELECT = {  # tokens, n, k, workspace in elements
    "one-product": (6, 70, 3, 1 << 20),
    "chunks-of-units": (3, 70, 3, 3 * 48),
    "chunks-and-tiles": (8, 50, 3, 3 * 40),
    "chunks-narrower-than-k": (4, 20, 20, 3 * 16),
    "n-is-1": (4, 1, 1, 64),
    "no-tokens": (0, 20, 3, 1 << 20),
}


@each_dtype
@pytest.mark.parametrize(("tokens", "n", "k", "room"), SELECT.values(), ids=SELECT.keys())
def test_select_is_the_top_k_of_the_whole_product(
    tokens: int,
    n: int,
    k: int,
    room: int,
    dtype: torch.dtype,
    small_workspace: Callable[[int], None],
) -> None:
    x, weight, bias = randn(tokens, 9).to(dtype), randn(n, 9).to(dtype), randn(n).to(dtype)
    small_workspace(room * x.element_size())
    pre = x.double() @ weight.double().T + bias.double()
    values, indices = kernels.select(x, weight, bias, k)
    assert_near(values, pre.topk(k).values, dtype, TOLERANCE[dtype])
    assert_near(values, pre.gather(1, indices), dtype, TOLERANCE[dtype])
    assert (values[:, :-1] >= values[:, 1:]).all()
    assert all(len(set(row)) == k for row in indices.tolist())


def test_select_cuts_where_the_tests_mean_it_to(small_workspace: Callable[[int], None]) -> None:
    small_workspace(3 * 40 * 4)
    cut = importlib.import_module("mxd.kernels.triton._select").tile_and_chunk
    assert cut(8, torch.empty(50, 9), torch.empty(8, 9)) == (3, 25)


@pytest.mark.parametrize("room", [1 << 20, 3 * 128])
def test_select_rescores_bf16_candidates_exactly(
    room: int, small_workspace: Callable[[int], None]
) -> None:
    small_workspace(room * 2)
    tokens, n, k, d = 6, 200, 8, 64
    x, weight, bias = randn(tokens, d), randn(n, d), randn(n)
    pre = x.double() @ weight.double().T + bias.double()
    values, indices = kernels.select(x, weight, bias, k, candidates_dtype=torch.bfloat16)
    assert_near(values, pre.gather(1, indices), torch.float32, 1e-6)  # bf16 would miss by 1e-3
    assert (values[:, :-1] >= values[:, 1:]).all()
    assert all(len(set(row)) == k for row in indices.tolist())
    true = pre.topk(k).indices
    found = (indices[:, :, None] == true[:, None, :]).any(1).double().mean()
    assert found == 1.0  # the margin is as wide as k here


def test_candidates_may_be_all_units() -> None:
    x, weight, bias = randn(3, 5), randn(9, 5), randn(9)
    values, _ = kernels.select(x, weight, bias, 9, candidates_dtype=torch.bfloat16)
    oracle = (x.double() @ weight.double().T + bias.double()).sort(descending=True).values
    assert_near(values, oracle, torch.float32, 1e-6)


def test_same_input_gives_the_same_bits() -> None:
    values, indices, table, rows = randn(9, 4), units(9, 4, 6), randn(6, 33), randn(9, 33)
    calls: list[Callable[[], Any]] = [
        lambda: kernels.weighted_rows(values, indices, table),
        lambda: kernels.row_products(rows, indices, table),
        lambda: kernels.scatter_rows(values, indices, rows, 6),
        lambda: kernels.select(rows, randn(80, 33), randn(80), 3)[0],
    ]
    for call in calls:
        assert torch.equal(call(), call())


def test_tiles_and_chunks_stay_within_the_workspace() -> None:
    module = importlib.import_module("mxd.kernels.triton._select")
    for tokens, n, d in [(4096, 21490, 768), (4096, 86015, 3072), (1, 262144, 64), (7, 5, 3)]:
        for wide, narrow in [(torch.float32, torch.bfloat16), (torch.float32, torch.float32)]:
            weight = torch.empty(n, d, dtype=wide, device="meta")
            x = torch.empty(tokens, d, dtype=narrow, device="meta")
            tile, chunk = module.tile_and_chunk(tokens, weight, x)
            assert 1 <= tile <= tokens
            assert 1 <= chunk <= n
            assert tile * module._padded(chunk) * x.element_size() <= 1 << 26
            assert wide == narrow or chunk * d * x.element_size() <= 1 << 26
            assert tile >= min(tokens, 512)


@pytest.mark.parametrize(
    ("batch", "n"), [((6,), 1), ((2, 3), 5), ((6,), 40), ((0,), 5), ((3,), 300)]
)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_gate_and_combine_through_triton_are_the_plain_ones(
    batch: tuple[int, ...], n: int, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that they take on a GPU, forward and every gradient."""
    for module in ("_rows", "_select"):
        monkeypatch.setattr(f"mxd.kernels.{module}.triton_for", lambda _: kernels)
    x, weight, bias, table = randn(*batch, 9), randn(n, 9), randn(n), randn(n, 7)
    weight = weight * torch.logspace(0, 2, n, device=DEVICE).unsqueeze(1)  # no close calls
    x = torch.stack([x, x], -1)[..., 0]  # not contiguous
    weigh, k = randn(*batch, 7), min(n, 4)

    def both(choose: Any, mix: Any, dtype: torch.dtype) -> list[Tensor]:
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in (x, weight, bias, table)]
        values, indices = choose(*leaves[:3], k)
        mixed = mix(values, indices, leaves[3])
        return [mixed.detach(), *torch.autograd.grad((mixed * weigh.to(dtype)).sum(), leaves)]

    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        found = both(gate, combine, torch.float32)
    for got, oracle in zip(found, both(naive.gate, naive.combine, torch.float64), strict=True):
        assert_near(got, oracle, torch.float32, 1e-5)
