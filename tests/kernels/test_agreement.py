"""The fast kernels compute what the plain ones specify, forward and in every gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mxd.kernels import combine, gate, naive

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
SHAPES = {
    "no-batch": ((), 5, 7, 3, 4),
    "tokens": ((6,), 5, 7, 3, 4),
    "contexts": ((2, 3), 5, 7, 3, 4),
    "no-tokens": ((0,), 5, 7, 3, 4),
    "no-contexts": ((0, 3), 5, 7, 3, 4),
    "k-is-1": ((6,), 5, 7, 1, 4),
    "k-is-n": ((6,), 5, 7, 7, 4),
    "n-is-1": ((6,), 5, 1, 1, 4),
    "all-widths-1": ((1,), 1, 1, 1, 1),
    "many": ((64,), 16, 200, 9, 24),
}
each_shape = pytest.mark.parametrize(
    ("batch", "d_in", "n", "k", "d_out"), SHAPES.values(), ids=SHAPES.keys()
)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])


def values_and_gradients(
    function: Callable[..., Any], inputs: list[Any], weigh: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The (first) output, and the gradient of a weighted sum of it for every float input."""
    leaves = [
        i.detach().clone().requires_grad_()
        if isinstance(i, Tensor) and i.is_floating_point()
        else i
        for i in inputs
    ]
    output = function(*leaves)
    output = output[0] if isinstance(output, tuple) else output
    wanted = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    return output.detach(), list(torch.autograd.grad((output * weigh).sum(), wanted))


def assert_near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * scale)


def assert_agree(fast: Any, plain: Any, inputs: list[Any], weigh: Tensor, tolerance: float) -> None:
    got, got_gradients = values_and_gradients(fast, inputs, weigh)
    expected, gradients = values_and_gradients(plain, inputs, weigh)
    assert_near(got, expected, tolerance)
    for mine, oracle in zip(got_gradients, gradients, strict=True):
        assert_near(mine, oracle, tolerance)


def gate_inputs(batch: Any, d_in: int, n: int, k: int, dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(1)
    make = [torch.randn(*shape, dtype=dtype) for shape in ((*batch, d_in), (n, d_in), (n,))]
    return [*make, k]


def combine_inputs(batch: Any, n: int, k: int, d_out: int, dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(2)
    values, table = torch.randn(*batch, k, dtype=dtype), torch.randn(n, d_out, dtype=dtype)
    return [values, torch.randint(n, (*batch, k)), table]


@each_dtype
@each_shape
def test_gate_equals_the_plain_gate(
    batch: Any, d_in: int, n: int, k: int, d_out: int, dtype: torch.dtype
) -> None:
    inputs = gate_inputs(batch, d_in, n, k, dtype)
    weigh = torch.randn(*batch, k, dtype=dtype)
    assert_agree(gate, naive.gate, inputs, weigh, TOLERANCE[dtype])


@each_dtype
@each_shape
def test_combine_equals_the_plain_combine(
    batch: Any, d_in: int, n: int, k: int, d_out: int, dtype: torch.dtype
) -> None:
    # Indices are drawn with replacement: a unit may be named twice for one token.
    inputs = combine_inputs(batch, n, k, d_out, dtype)
    weigh = torch.randn(*batch, d_out, dtype=dtype)
    assert_agree(combine, naive.combine, inputs, weigh, TOLERANCE[dtype])


def test_gate_names_the_units_that_its_values_belong_to() -> None:
    x, weight, bias, k = gate_inputs((50,), 8, 30, 12, torch.float64)
    values, indices = gate(x, weight, bias, k)
    dense = torch.relu(x @ weight.T + bias)
    torch.testing.assert_close(dense.gather(-1, indices), values, rtol=0, atol=1e-12)
    assert indices.dtype == torch.int64
    assert (values[:, :-1] >= values[:, 1:]).all()
    assert all(len(set(row.tolist())) == k for row in indices)
    assert not indices.requires_grad


def test_gate_gives_unused_slots_zero_and_a_valid_unit() -> None:
    x, weight, _, k = gate_inputs((20,), 8, 30, 12, torch.float64)
    values, indices = gate(x, weight, torch.full((30,), -1e6, dtype=torch.float64), k)
    assert not values.any()
    assert ((indices >= 0) & (indices < 30)).all()
    gradients = values_and_gradients(
        gate, [x, weight, torch.full((30,), -1e6, dtype=torch.float64), k], torch.ones(20, k)
    )[1]
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_gate_with_ties_keeps_the_same_set_of_values(k: int) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-1, 2, (6, 3)).double().repeat_interleave(3, 0)  # triplets of equal rows
    x, bias = torch.randint(-2, 3, (40, 3)).double(), torch.zeros(18, dtype=torch.float64)
    fast, indices = gate(x, weight, bias, k)
    assert torch.equal(fast, naive.gate(x, weight, bias, k)[0])
    assert torch.equal(fast, torch.relu(x @ weight.T + bias).gather(-1, indices))


def test_kernels_accept_inputs_that_are_not_contiguous() -> None:
    x, weight, _, k = gate_inputs((6, 5), 8, 20, 4, torch.float64)
    values, indices, table = combine_inputs((6, 5), 20, 4, 7, torch.float64)

    def gate_of_views(function: Any) -> Any:
        return lambda a, w, b: function(a.transpose(0, 1), w.T.contiguous().T, b[::2], k)

    def combine_of_views(function: Any) -> Any:
        return lambda v, t: function(v.transpose(0, 1), indices.transpose(0, 1), t.T.contiguous().T)

    wide = torch.randn(40, dtype=torch.float64)
    weigh = torch.randn(5, 6, k, dtype=torch.float64)
    assert_agree(gate_of_views(gate), gate_of_views(naive.gate), [x, weight, wide], weigh, 1e-10)
    weigh = torch.randn(5, 6, 7, dtype=torch.float64)
    assert_agree(
        combine_of_views(combine), combine_of_views(naive.combine), [values, table], weigh, 1e-10
    )


dimension = st.integers(1, 9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=3),
    dimension,
    dimension,
    dimension,
    st.data(),
    st.booleans(),
)
def test_kernels_equal_the_plain_ones_for_any_shape(
    batch: list[int], d_in: int, n: int, d_out: int, data: st.DataObject, double: bool
) -> None:
    dtype = torch.float64 if double else torch.float32
    k = data.draw(st.integers(1, n), label="k")
    inputs = gate_inputs(batch, d_in, n, k, dtype)
    assert_agree(gate, naive.gate, inputs, torch.randn(*batch, k, dtype=dtype), TOLERANCE[dtype])
    inputs = combine_inputs(batch, n, k, d_out, dtype)
    weigh = torch.randn(*batch, d_out, dtype=dtype)
    assert_agree(combine, naive.combine, inputs, weigh, TOLERANCE[dtype])
