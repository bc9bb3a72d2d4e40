"""The layers of a plan: their parameters, and what a step of each needs beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from mxd.errors import UserError
from mxd.layers import DenseBranchConfig, Layer, SparseConfig, SparseLayer, build, layer_class
from mxd.planning.ledger import Ledger, on_meta
from mxd.planning.model import SiteShape
from mxd.planning.shape import Shape, dense_parameters, parameters, unit_parameters
from mxd.planning.work import WEIGHT
from mxd.training import LayerRecipe, normalized_mse

_MOST_LAYERS = 10_000
_MOST_UNITS = 1 << 31
"""As many as a stored layer may claim."""
_COUNTED_UNITS, _COUNTED_TOKENS = 1 << 16, 1 << 13
"""Sizes up to which a step is gone through tile by tile; beyond, its memory is linear in them."""
_COUNTED_PARTS = 3
"""Micro-batches that are gone through; the others would need the same again."""


@dataclass(frozen=True)
class StudentShape:
    """One layer to be trained."""

    name: str
    """As the run names it, `<architecture>-k<k>-w<width>-s<seed>`."""
    site: str
    """Where."""
    architecture: str
    """A registered name."""
    shape: Shape
    """Its dimensions, and the tokens of a step."""
    step_bytes: int
    """Most bytes at one time in a step, gradients included."""
    temporary_bytes: int
    """The same without gradients."""

    @property
    def parameters(self) -> int:
        """All of its parameters."""
        return parameters(self.architecture, self.shape)

    @property
    def unit_parameters(self) -> int:
        """Those that expert parallelism shards."""
        return unit_parameters(self.shape)

    @property
    def dense_parameters(self) -> int:
        """Those that it keeps whole on every rank."""
        return dense_parameters(self.architecture, self.shape)


def plan_students(
    sites: Sequence[SiteShape],
    *,
    architectures: Sequence[str],
    ks: Sequence[int],
    seeds: Sequence[int] = (42,),
    recipe: LayerRecipe,
    batch_tokens: int = 4096,
    micro_tokens: int | None = None,
) -> tuple[StudentShape, ...]:
    """The layers that a training of these sites has, as `mxd fit` would build them.

    Args:
        sites: where.
        architectures: registered names.
        ks: active units.
        seeds: one layer for each.
        recipe: how wide the layers are.
        batch_tokens: tokens in a step.
        micro_tokens: tokens whose dense part is computed at one time; None for a whole batch.

    Raises:
        UserError: K larger than N, a width that cannot be matched, or an MLP whose hidden width is
            unknown.
    """
    if len(sites) * len(architectures) * len(ks) * len(seeds) > _MOST_LAYERS:
        raise UserError(
            f"got more than {_MOST_LAYERS:,} layers to train, expected fewer; choose fewer blocks"
        )
    found: dict[tuple[str, str], StudentShape] = {}
    for site in sites:
        for architecture in architectures:
            for k in ks:
                one = _student(site, architecture, k, recipe, batch_tokens, micro_tokens)
                for seed in seeds:
                    name = f"{one.name}-s{seed}"
                    found.setdefault((site.name, name), replace(one, name=name))
    return tuple(found.values())


def _student(
    site: SiteShape,
    architecture: str,
    k: int,
    recipe: LayerRecipe,
    batch_tokens: int,
    micro_tokens: int | None,
) -> StudentShape:
    dense = issubclass(layer_class(architecture).config_class, DenseBranchConfig)
    hidden = recipe.d_hidden or site.d_hidden
    if dense and hidden is None:
        raise UserError(
            f"the width of the hidden units of {site.name} could not be read from the model; give "
            f"it (--d-hidden, for example {4 * site.d_in})"
        )
    key = _Key(
        architecture, site.d_in, site.d_out, hidden or 4 * site.d_in,
        recipe.activation or site.activation or "gelu", site.glu, k, recipe.width,
        recipe.expansion, recipe.rule, batch_tokens, micro_tokens,
    )  # fmt: skip
    shape, step, temporary = _counted(key)
    shown = k if shape.units else 0
    name = f"{architecture}-k{shown}-w{shape.units}"
    return StudentShape(name, site.name, architecture, shape, step, temporary)


@dataclass(frozen=True)
class _Key:
    """All that a layer's costs depend on; blocks of one shape are counted once."""

    architecture: str
    d_in: int
    d_out: int
    hidden: int
    activation: str
    glu: bool
    k: int
    width: int | None
    expansion: float
    rule: str
    tokens: int
    micro: int | None


@lru_cache(maxsize=256)
def _counted(key: _Key) -> tuple[Shape, int, int]:
    """A layer's shape, and the most bytes of its step with and without gradients."""
    layer = _on_meta(key)
    config = layer.config
    hidden = config.d_hidden if isinstance(config, DenseBranchConfig) else 0
    k = config.k if isinstance(config, SparseConfig) else 0
    shape = Shape(config.d_in, config.d_out, hidden, config.n_units, k, key.tokens, key.glu)
    few = min(shape.units, max(_COUNTED_UNITS, shape.k))
    if few < shape.units:
        layer = _on_meta(replace(key, width=few))
    tokens = min(key.tokens, _COUNTED_TOKENS)
    whole, rest = (n * key.tokens // tokens for n in step_bytes(layer.train(), tokens, key.micro))
    more = WEIGHT * (unit_parameters(shape) - unit_parameters(replace(shape, units=few)))
    return shape, whole + more, rest


def _on_meta(key: _Key) -> Layer:
    try:
        with torch.device("meta"):
            layer = build(
                key.architecture,
                d_in=key.d_in,
                d_out=key.d_out,
                d_hidden=key.hidden,
                activation=key.activation,
                glu=key.glu,
                k=key.k,
                width=key.width,
                expansion=key.expansion,
                rule=key.rule,
            )
    except (RuntimeError, OverflowError) as error:  # torch counts bytes in 64 bits
        raise UserError(
            f"got a {key.architecture} too large to count ({error}), expected a smaller width"
        ) from None
    if layer.config.n_units > _MOST_UNITS:
        raise UserError(
            f"got a {key.architecture} of {layer.config.n_units:,} units, expected at most "
            f"{_MOST_UNITS:,}; give a smaller width"
        )
    return layer


def step_bytes(layer: Layer, tokens: int, micro: int | None = None) -> tuple[int, int]:
    """The most bytes at one time in a step of a layer on the meta device, float32.

    The same calls as in `mxd.training.Student`, on tensors without numbers. Weights, their moments
    and the batch are not counted; the optimizer needs nothing more, it works in place.

    Args:
        layer: on the meta device.
        tokens: tokens of the step.
        micro: tokens of the dense part at one time; None for all.

    Returns:
        The most bytes with the gradients of all parameters, and without.
    """
    x, y = on_meta(tokens, layer.config.d_in), on_meta(tokens, layer.config.d_out)
    ledger = Ledger([*layer.parameters(), *layer.buffers(), x, y])
    with ledger:
        _gradients(layer, x, y, min(micro or tokens, tokens))
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    return ledger.peak(), ledger.peak(without=gradients)


def _gradients(layer: Layer, x: Tensor, y: Tensor, size: int) -> None:
    codes = combined = None
    if isinstance(layer, SparseLayer):
        codes = layer.encode(x)
        combined = layer.combined(codes)
    if size == len(x):
        prediction = _dense(layer, combined, x)
        residual = y - prediction.detach()
        del residual
        loss = normalized_mse(prediction, y)
        loss.backward()
        return
    leaf = None if combined is None else combined.detach().requires_grad_()
    for start in range(0, min(len(x), _COUNTED_PARTS * size), size):
        part = slice(start, start + size)
        prediction = _dense(layer, None if leaf is None else leaf[part], x[part])
        normalized_mse(prediction, y[part]).backward()
    if combined is not None and leaf is not None and leaf.grad is not None:
        (combined * leaf.grad).sum().backward()


def _dense(layer: Layer, combined: Tensor | None, x: Tensor) -> Tensor:
    if combined is None or not isinstance(layer, SparseLayer):
        prediction: Tensor = layer(x)
        return prediction
    return layer.finish(combined, x)
