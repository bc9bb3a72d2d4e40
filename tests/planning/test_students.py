import pytest
import torch
from tests.planning._parts import sites

from mxd.errors import UserError
from mxd.layers import ARCHITECTURES, build
from mxd.planning import Shape, SiteShape, parameters, plan_students, step_bytes, step_parts
from mxd.training import LayerRecipe


def layer_of(architecture, *, glu=False, place="cpu", **changes):
    fields = {"d_in": 6, "d_out": 6, "d_hidden": 10, "k": 3, "width": 20, **changes}
    with torch.device(place):
        return build(architecture, activation="gelu", glu=glu, **fields)


@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_parameters_are_those_of_the_layer(architecture, glu):
    layer = layer_of(architecture, glu=glu)
    units = layer.config.n_units
    shape = Shape(6, 6, 10, units, 3, 64, glu)
    assert parameters(architecture, shape) == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "topk_autoencoder"])
def test_forward_operations_are_those_of_the_layer(architecture, glu):
    """The parts of the forward pass add up to what the layer itself says that it costs."""
    layer = layer_of(architecture, glu=glu)
    shape = Shape(6, 6, 10, layer.config.n_units, 3, 64, glu)
    forward = [
        part.flops
        for part in step_parts(architecture, shape)
        if part.name in ("gate, product", "rows, sum", "encoder and φ", "decoder", "skip")
    ]
    assert sum(forward) == 64 * layer.cost().flops_per_token


def test_a_plan_has_the_layers_that_a_run_would_have():
    found = plan_students(
        sites(2),
        architectures=("mxd", "dense_mlp"),
        ks=(2, 4),
        seeds=(1, 2),
        recipe=LayerRecipe(expansion=16.0),
        batch_tokens=32,
    )
    names = [(one.site, one.name) for one in found]
    assert len(names) == len(set(names)) == 2 * (2 * 2 + 2)  # a dense MLP has no K to vary
    assert ("b.0.mlp", "mxd-k2-w112-s1") in names
    assert ("b.1.mlp", "dense_mlp-k0-w0-s2") in names


def test_dense_step_by_hand():
    """z before and after φ, and their gradients: three (T, H) at once, and five (T, O) or so."""
    tokens, hidden = 512, 4096
    layer = layer_of("dense_mlp", place="meta", d_hidden=hidden)
    whole, rest = step_bytes(layer, tokens)
    weights = sum(p.numel() for p in layer.parameters()) * 4
    assert rest == pytest.approx(3 * tokens * hidden * 4, rel=0.03)
    assert whole <= rest + weights


def test_micro_batches_need_less():
    layer = layer_of("mxd", place="meta", d_hidden=4096)
    whole = step_bytes(layer, 512)[1]
    layer.zero_grad(set_to_none=True)
    assert step_bytes(layer, 512, 128)[1] < 0.4 * whole


def test_memory_of_a_step_does_not_grow_with_n():
    """Beyond gradients: pre-activations exist a tile at a time."""
    few = step_bytes(layer_of("transcoder", place="meta", width=20_000), 256)[1]
    many = step_bytes(layer_of("transcoder", place="meta", width=200_000), 256)[1]
    assert many < 1.5 * few


def test_a_step_too_wide_to_go_through_is_extended():
    """Beyond 2^16 units, memory is that of 2^16 and the gradients of the rest."""
    found = {}
    for width in (60_000, 1 << 16, 1 << 17):
        (found[width],) = plan_students(
            sites(), architectures=("mxd",), ks=(4,), recipe=LayerRecipe(width=width),
            batch_tokens=1024,
        )  # fmt: skip
    layer = layer_of("mxd", place="meta", d_in=8, d_out=8, d_hidden=16, k=4, width=1 << 17)
    exact = step_bytes(layer, 1024)[0]
    assert exact <= found[1 << 17].step_bytes <= 1.25 * exact
    assert found[1 << 17].step_bytes > found[1 << 16].step_bytes > found[60_000].step_bytes


def test_too_many_units_are_refused():
    with pytest.raises(UserError, match="smaller width"):
        plan_students(
            sites(), architectures=("mxd",), ks=(4,), recipe=LayerRecipe(width=(1 << 31) + 1)
        )


def test_unknown_hidden_width_is_refused():
    site = SiteShape("lm_head", None, 8, 8, None, None, False)
    with pytest.raises(UserError, match="--d-hidden"):
        plan_students([site], architectures=("mxd",), ks=(2,), recipe=LayerRecipe(width=8))
    (one,) = plan_students(
        [site], architectures=("transcoder",), ks=(2,), recipe=LayerRecipe(width=8)
    )
    assert one.parameters == 8 * 17 + 8


def test_k_beyond_n_is_refused():
    with pytest.raises(UserError, match="lower k"):
        plan_students(sites(), architectures=("mxd",), ks=(9,), recipe=LayerRecipe(width=8))


def test_too_many_layers_are_refused():
    with pytest.raises(UserError, match="fewer"):
        plan_students(
            sites(), architectures=("mxd",), ks=(2,), seeds=range(10_001), recipe=LayerRecipe()
        )
