"""The factored forward pass of an MxD is the sum over its experts, in every form of the algebra."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.layers._examples import filled, inputs, randomise
from torch import Tensor
from torch.nn import functional as F

from mxd.errors import UserError
from mxd.layers import MxD, MxDConfig, mixture

EXACT = {"rtol": 0, "atol": 1e-10}


@st.composite
def layers(draw: st.DrawFn) -> MxD:
    """An MxD of any small shape and either form, in float64, with random parameters."""
    width = st.integers(1, 7)
    n = draw(width)
    k = draw(st.integers(1, n))
    config = MxDConfig(
        d_in=draw(width),
        d_out=draw(width),
        d_hidden=draw(width),
        n_experts=n,
        k=k,
        shared_experts=draw(st.integers(0, k - 1)),
        glu=draw(st.booleans()),
        activation=draw(st.sampled_from(["gelu", "silu", "relu"])),
    )
    layer = MxD(config).double()
    torch.manual_seed(draw(st.integers(0, 1000)))
    randomise(layer)
    return layer


batches = st.lists(st.integers(0, 3), max_size=2)


def hidden(layer: MxD, x: Tensor) -> Tensor:
    """z, written out."""
    z = layer.activation(F.linear(x, layer.encoder.weight, layer.encoder.bias))
    if layer.encoder_up is not None:
        z = z * F.linear(x, layer.encoder_up.weight, layer.encoder_up.bias)
    return z


def coefficients(layer: MxD, x: Tensor) -> Tensor:
    """Dense a, written out."""
    shared = layer.config.shared_experts
    free = torch.relu(F.linear(x, layer.gate.weight, layer.gate.bias))[..., shared:]
    top = free.topk(layer.config.k - shared, dim=-1)
    chosen = torch.zeros_like(free).scatter(-1, top.indices, top.values)
    return torch.cat([torch.ones_like(chosen[..., :1]).expand(*x.shape[:-1], shared), chosen], -1)


def naive_forward(layer: MxD, x: Tensor) -> Tensor:
    """Σ_n a_n W_nᵀ z + b, one expert at a time."""
    a, z = coefficients(layer, x), hidden(layer, x)
    experts = [a[..., n, None] * (z @ layer.expert_weight(n)) for n in range(a.shape[-1])]
    return torch.stack(experts).sum(0) + layer.bias


@settings(max_examples=60, deadline=None)
@given(layers(), batches)
def test_mxd_equals_the_sum_over_its_experts(layer: MxD, batch: list[int]) -> None:
    x = inputs(layer, *batch)
    torch.testing.assert_close(layer(x), naive_forward(layer, x), **EXACT)


@settings(max_examples=60, deadline=None)
@given(layers(), batches)
def test_mxd_equals_the_tensor_contraction(layer: MxD, batch: list[int]) -> None:
    x = inputs(layer, *batch)
    a, z = layer.encode(x).dense(), hidden(layer, x)
    W = torch.stack([layer.expert_weight(n) for n in range(layer.config.n_experts)])
    contracted = torch.einsum("nho,...n,...h->...o", W, a, z)
    torch.testing.assert_close(layer(x), contracted + layer.bias, **EXACT)
    torch.testing.assert_close(
        layer(x), mixture(a, z, layer.modulators, layer.decoder) + layer.bias, **EXACT
    )


@settings(max_examples=60, deadline=None)
@given(layers())
def test_mxd_equals_the_khatri_rao_unfolding(layer: MxD) -> None:
    x = inputs(layer, 3)
    a, z = layer.encode(x).dense(), hidden(layer, x)
    C, D = layer.modulators, layer.decoder
    columns = [torch.kron(C[:, o], D[:, o]) for o in range(layer.config.d_out)]
    unfolding = torch.stack(columns)  # mode 3: (C ⊙ D)ᵀ, (O, N·H), one Kronecker product a row
    W = torch.stack([layer.expert_weight(n) for n in range(layer.config.n_experts)])
    torch.testing.assert_close(unfolding, W.permute(2, 0, 1).flatten(1), **EXACT)
    pairs = torch.einsum("tn,th->tnh", a, z).flatten(1)  # a ⊗ z
    torch.testing.assert_close(layer(x), pairs @ unfolding.T + layer.bias, **EXACT)


@settings(max_examples=40, deadline=None)
@given(layers(), batches)
def test_mxd_gradients_equal_those_of_the_sum_over_experts(layer: MxD, batch: list[int]) -> None:
    x = inputs(layer, *batch).requires_grad_()
    wanted = {"x": x, **dict(layer.named_parameters())}
    weigh = torch.randn(*batch, layer.config.d_out, dtype=x.dtype)
    fast = torch.autograd.grad((layer(x) * weigh).sum(), wanted.values())
    slow = torch.autograd.grad(
        (naive_forward(layer, x) * weigh).sum(), wanted.values(), materialize_grads=True
    )
    for name, mine, oracle in zip(wanted, fast, slow, strict=True):
        scale = max(1.0, float(oracle.abs().max())) if oracle.numel() else 1.0
        torch.testing.assert_close(mine, oracle, rtol=0, atol=1e-10 * scale, msg=name)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_expert_weight_has_the_rank_of_the_shared_decoder(layer: MxD) -> None:
    rank = torch.linalg.matrix_rank(layer.decoder)
    for n in range(layer.config.n_experts):
        assert torch.linalg.matrix_rank(layer.expert_weight(n)) == rank


def test_expert_weight_loses_rank_where_its_modulator_is_zero() -> None:
    layer = filled("mxd")
    assert isinstance(layer, MxD)
    with torch.no_grad():
        layer.modulators[3, :2] = 0
    assert torch.linalg.matrix_rank(layer.expert_weight(2)) == layer.config.d_out
    assert torch.linalg.matrix_rank(layer.expert_weight(3)) == layer.config.d_out - 2


@pytest.mark.parametrize("n", [-1, 9])
def test_expert_weight_refuses_an_expert_that_does_not_exist(n: int) -> None:
    layer: Any = filled("mxd")
    with pytest.raises(UserError, match=f"got expert {n}, expected 0 to 8"):
        layer.expert_weight(n)


def test_mixture_of_one_expert_is_a_dense_mlp() -> None:
    z, D = torch.randn(6, 7).double(), torch.randn(7, 4).double()
    one = mixture(torch.ones(6, 1).double(), z, torch.ones(1, 4).double(), D)
    torch.testing.assert_close(one, z @ D, **EXACT)


def test_mixture_with_identity_modulators_is_a_glu() -> None:
    # A GLU in the paper's sense: (Dᵀz) ⊙ (linear factor of x); expert n keeps output column n.
    x, E, D = torch.randn(6, 5).double(), torch.randn(5, 7).double(), torch.randn(7, 4).double()
    factor = x @ torch.randn(5, 4).double()
    assert (factor < 0).any()
    z = F.silu(x @ E)
    glu = (z @ D) * factor
    torch.testing.assert_close(mixture(factor, z, torch.eye(4).double(), D), glu, **EXACT)
    rank_one = sum(factor[:, n, None] * (z @ (D * torch.eye(4).double()[n])) for n in range(4))
    torch.testing.assert_close(rank_one, glu, **EXACT)


def test_contribution_and_modulation_are_the_parts_of_the_output() -> None:
    layer = filled("mxd")
    assert isinstance(layer, MxD)
    x = inputs(layer, 6)
    codes = layer.encode(x)
    modulation, dense = layer.modulation(codes), layer.dense_branch(x)
    torch.testing.assert_close(modulation, codes.dense() @ layer.modulators, **EXACT)
    torch.testing.assert_close(layer.contribution(codes, x), modulation * dense, **EXACT)
    torch.testing.assert_close(layer(x), modulation * dense + layer.bias, **EXACT)
    with pytest.raises(UserError, match="also needs x"):
        layer.decode(codes)
