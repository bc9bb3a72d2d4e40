"""What the kernels keep for their backward pass; tiles and half precision."""

import importlib
from typing import Any

import pytest
import torch
from tests.kernels.test_agreement import (
    assert_agree,
    combine_inputs,
    gate_inputs,
    values_and_gradients,
)
from torch import Tensor

from mxd.kernels import combine, gate, naive
from mxd.kernels._rows import scatter_rows
from mxd.layers import MxD, MxDConfig, SparseLayer, Transcoder, TranscoderConfig

SELECT = importlib.import_module("mxd.kernels._select")
TOKENS, WIDTH, UNITS, K = 20, 6, 97, 5  # 97 is no other dimension, so it betrays itself


@pytest.mark.parametrize("tile", [1, 50, 64, 200, 1000])
def test_kernels_do_not_depend_on_the_tile(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SELECT, "_TILE_ELEMENTS", tile)
    inputs = gate_inputs((23,), 5, 32, 3, torch.float64)
    assert_agree(gate, naive.gate, inputs, torch.randn(23, 3, dtype=torch.float64), 1e-10)
    inputs = combine_inputs((23,), 32, 3, 7, torch.float64)
    assert_agree(combine, naive.combine, inputs, torch.randn(23, 7, dtype=torch.float64), 1e-10)


def test_gate_passes_gradcheck() -> None:
    x, weight, bias, k = gate_inputs((4,), 3, 6, 2, torch.float64)
    for leaf in (x, weight, bias):
        leaf.requires_grad_()
    assert torch.autograd.gradcheck(lambda *leaves: gate(*leaves, k)[0], (x, weight, bias))


def test_combine_passes_gradcheck() -> None:
    values, indices, table = combine_inputs((4,), 6, 3, 2, torch.float64)
    values.requires_grad_(), table.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, t: combine(v, indices, t), (values, table))


@pytest.mark.parametrize("wanted", range(3), ids=["x", "weight", "bias"])
def test_gate_gives_the_one_gradient_that_is_wanted(wanted: int) -> None:
    *leaves, k = gate_inputs((9,), 4, 12, 3, torch.float64)
    oracle = [leaf.clone().requires_grad_() for leaf in leaves]
    naive.gate(*oracle, k)[0].sum().backward()
    leaves[wanted].requires_grad_()
    gate(*leaves, k)[0].sum().backward()
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == (i == wanted)
    torch.testing.assert_close(leaves[wanted].grad, oracle[wanted].grad)


def test_combine_leaves_a_frozen_table_without_gradient() -> None:
    values, indices, table = combine_inputs((9,), 12, 3, 4, torch.float64)
    combine(values.requires_grad_(), indices, table).sum().backward()
    assert table.grad is None
    torch.testing.assert_close(values.grad, table[indices].sum(-1))


def test_scatter_rows_sums_half_precision_in_float32() -> None:
    ones = torch.ones(4096, 1, dtype=torch.bfloat16)  # bf16 stops counting at 256
    indices = torch.zeros(4096, 1, dtype=torch.int64)
    assert scatter_rows(ones, indices, ones, 2).tolist() == [[4096.0], [0.0]]


def test_gate_sums_the_bias_gradient_of_half_precision_in_float32() -> None:
    x = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight, bias = torch.ones(1, 1), torch.zeros(1, requires_grad=True)
    gate(x, weight, bias, 1)[0].sum().backward()
    assert bias.grad is not None
    assert bias.grad.item() == 4096


def layers() -> list[Any]:
    sizes = {"d_in": WIDTH, "d_out": WIDTH + 1, "k": K}
    mlp = {"d_hidden": 11, "n_experts": UNITS}
    made = {
        "mxd": lambda: MxD(MxDConfig(**sizes, **mlp)),
        "mxd-glu": lambda: MxD(MxDConfig(**sizes, **mlp, glu=True)),
        "mxd-shared": lambda: MxD(MxDConfig(**sizes, **mlp, shared_experts=2)),
        "transcoder": lambda: Transcoder(TranscoderConfig(**sizes, n_latents=UNITS)),
        "skip-transcoder": lambda: Transcoder(
            TranscoderConfig(**sizes, n_latents=UNITS, skip=True)
        ),
    }
    return [pytest.param(make, id=name) for name, make in made.items()]


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("make", layers())
def test_training_step_keeps_nothing_as_wide_as_n(make: Any, autocast: bool) -> None:
    layer: SparseLayer = make()
    owned = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = torch.randn(TOKENS, WIDTH)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        loss = layer(x).square().mean()
    loss.backward()
    assert kept
    own_parameter = [t.untyped_storage().data_ptr() in owned for t in kept]
    assert any(own_parameter)
    wide = {UNITS, UNITS - 2}  # what shared experts leave of the gate
    for tensor, own in zip(kept, own_parameter, strict=True):
        assert own or not wide & set(tensor.shape), f"kept a tensor of shape {tuple(tensor.shape)}"


def test_autocast_stays_near_full_precision_and_keeps_the_dtypes() -> None:
    x, weight, bias, k = gate_inputs((64,), 32, 50, 50, torch.float32)  # k = N: no choice to differ
    table = torch.randn(50, 8)

    def both(a: Tensor, w: Tensor, b: Tensor, t: Tensor) -> Tensor:
        values, units = gate(a, w, b, k)
        assert values.dtype == torch.float32
        mixed = combine(values, units, t)
        assert mixed.dtype == torch.float32
        return mixed

    weigh = torch.randn(64, 8)
    full, gradients = values_and_gradients(both, [x, weight, bias, table], weigh)
    with torch.autocast("cpu", torch.bfloat16):
        half, half_gradients = values_and_gradients(both, [x, weight, bias, table], weigh)
    for mine, oracle in zip([half, *half_gradients], [full, *gradients], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - oracle).norm() < 0.05 * oracle.norm()


def test_autocast_leaves_double_precision_alone() -> None:
    x, weight, bias, k = gate_inputs((8,), 6, 10, 3, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        half = gate(x, weight, bias, k)[0]
    assert torch.equal(half, gate(x, weight, bias, k)[0])


def test_bfloat16_weights_and_inputs_give_bfloat16_gradients() -> None:
    x, weight, bias, k = gate_inputs((16,), 6, 10, 3, torch.bfloat16)
    values, indices = gate(x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), k)
    table = torch.randn(10, 4, dtype=torch.bfloat16, requires_grad=True)
    combine(values, indices, table).sum().backward()
    for leaf in (x, weight, bias, table):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.bfloat16
        assert leaf.grad.isfinite().all()
