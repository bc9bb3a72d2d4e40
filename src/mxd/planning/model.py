"""What there is to know of a language model before its weights are there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from mxd.errors import UserError
from mxd.host import MLPSite, capture
from mxd.host._blocks import find_blocks
from mxd.host._calls import text_config
from mxd.planning.ledger import Ledger, Unmasked, on_meta
from mxd.planning.weights import stated_quantisation, unique_parameters, weight_bytes

logger = logging.getLogger(__name__)
_MOST_WIDTH = 1 << 24
"""A configuration that claims more is not believed; the widest MLPs have some 2^16 units."""


@dataclass(frozen=True)
class SiteShape:
    """One MLP, by its widths."""

    name: str
    """Dotted name of the module."""
    layer_index: int | None
    """Position of its block."""
    d_in: int
    """Width of what it receives."""
    d_out: int
    """Width of what it adds."""
    d_hidden: int | None
    """Its hidden units; None where its inside is unknown."""
    activation: str | None
    """Name of its activation, where it is known."""
    glu: bool
    """Whether it is a gated linear unit."""


@dataclass(frozen=True)
class ModelShape:
    """A language model, as far as a training of layers needs to know it."""

    name: str
    """Hub id or folder."""
    parameters: int
    """All parameters; tied ones count once."""
    parameters_run: int
    """Those of the embedding and of the blocks up to the last site: a pass stops there."""
    blocks: int
    """Blocks of the model."""
    blocks_run: int
    """Blocks that a pass runs."""
    width: int
    """Width of the residual stream."""
    element: int
    """Bytes of a weight, and of an activation."""
    weight_bytes: int
    """Bytes of all weights, quantised or not."""
    weight_bytes_run: int
    """Of those that a pass runs."""
    file_bytes: int
    """Of all of them as they are stored."""
    quantised: str | None
    """`8bit`, `4bit`, or another way of quantising that the configuration names; None for none."""
    sites: tuple[SiteShape, ...]
    """The MLPs that layers are trained for."""
    flops_per_token: int
    """Operations of a pass up to the last site, for a token."""
    pass_bytes: int
    """Most bytes of activations at one time in a pass, those captured included."""
    pass_tokens: int
    """Tokens of that pass."""
    counted: bool
    """Whether the last figures were counted in a pass without numbers; else they are estimated from
    the weights' shapes."""

    @property
    def row_values(self) -> int:
        """Numbers captured for a token: Σ over sites of d_in + d_out."""
        return sum(site.d_in + site.d_out for site in self.sites)


def describe_model(
    model: nn.Module,
    sites: Sequence[MLPSite],
    *,
    name: str,
    contexts: int,
    length: int,
    load_in: str | None = None,
    on_block: Callable[[int, int], None] = lambda done, count: None,
) -> ModelShape:
    """Measure a model that is on the meta device.

    Args:
        model: from `load_skeleton`.
        sites: where layers are to be trained.
        name: what to call the model.
        contexts: contexts in a pass.
        length: tokens in a context.
        load_in: what its linear layers are quantised to, `8bit` or `4bit`; None for what its
            configuration says.
        on_block: called for each block of a pass, with how many there were and how many there are.

    Raises:
        UserError: contexts longer than the model's positions, or MLPs wider than any.
    """
    _check_length(model, length)
    _check_widths(name, sites)
    blocks = list(find_blocks(model).values())
    indices = [site.layer_index for site in sites]
    last = len(blocks) if None in indices else 1 + max(i for i in indices if i is not None)
    every, run = unique_parameters(model), unique_parameters(*_embedding(model), *blocks[:last])
    stored = stated_quantisation(model)
    quantised = load_in or stored
    example = next(p for p in model.parameters() if p.is_floating_point())
    with _told(blocks[:last], on_block):
        counted = _counted_pass(model, sites, contexts, length)
    flops, peak = counted or _estimated_pass(model, blocks[:last], sites, contexts, length)
    width = getattr(text_config(model), "hidden_size", None)
    return ModelShape(
        name=name,
        parameters=sum(p.numel() for p in every),
        parameters_run=sum(p.numel() for p in run),
        blocks=len(blocks),
        blocks_run=last,
        width=width if isinstance(width, int) else sites[0].d_in,
        element=example.element_size(),
        weight_bytes=weight_bytes(model, every, quantised),
        weight_bytes_run=weight_bytes(model, run, quantised),
        file_bytes=weight_bytes(model, every, stored),
        quantised=quantised,
        sites=tuple(_site_shape(site) for site in sites),
        flops_per_token=flops // (contexts * length),
        pass_bytes=peak,
        pass_tokens=contexts * length,
        counted=counted is not None,
    )


def _check_length(model: nn.Module, length: int) -> None:
    positions = getattr(text_config(model), "max_position_embeddings", None)
    if isinstance(positions, int) and length > positions:
        raise UserError(
            f"got contexts of {length} tokens, expected at most the {positions} that the model has "
            "positions for; choose shorter contexts"
        )


def _check_widths(name: str, sites: Sequence[MLPSite]) -> None:
    for site in sites:
        widest = max(site.d_in, site.d_out, site.d_hidden or 0)
        if widest > _MOST_WIDTH:
            raise UserError(
                f"got {name!r} with {widest:,} units in {site.name}, expected at most "
                f"{_MOST_WIDTH:,}; look at its config.json"
            )


@contextmanager
def _told(blocks: Sequence[nn.Module], on_block: Callable[[int, int], None]) -> Iterator[None]:
    """Tell of every block that runs."""
    hooks = [
        block.register_forward_pre_hook(lambda *_, done=number: on_block(done, len(blocks)))
        for number, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _site_shape(site: MLPSite) -> SiteShape:
    return SiteShape(
        site.name,
        site.layer_index,
        site.d_in,
        site.d_out,
        site.d_hidden,
        site.activation,
        bool(site.glu),
    )


def _embedding(model: nn.Module) -> list[nn.Module]:
    """What runs before the first block; the vocabulary's projection comes after the last."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    return [embedding] if isinstance(embedding, nn.Module) else []


def _counted_pass(
    model: nn.Module, sites: Sequence[MLPSite], contexts: int, length: int
) -> tuple[int, int] | None:
    """Operations and live bytes of a pass without numbers; None where the model needs numbers."""
    ids = on_meta(contexts, length, dtype=torch.int64)
    ledger, attention = Ledger([*model.parameters(), *model.buffers(), ids]), Unmasked()
    try:
        with attention, ledger:
            capture(model, sites, ids)
    except UserError:
        raise
    except Exception as error:  # somebody's model that looks at values, as routers do
        logger.info("a pass cannot be counted without numbers (%s): it is estimated", error)
        return None
    if ledger.uncounted:
        unknown = ", ".join(sorted(ledger.uncounted))
        logger.info("operations of %s cannot be counted: a pass is estimated", unknown)
        return None
    return ledger.flops + attention.flops, ledger.peak()


def _estimated_pass(
    model: nn.Module, blocks: list[nn.Module], sites: Sequence[MLPSite], contexts: int, length: int
) -> tuple[int, int]:
    tokens, share = contexts * length, _routed_share(model)
    matrices = sum(
        p.numel() * (share if p.ndim > 2 or ".experts." in f".{name}." else 1.0)
        for block in blocks
        for name, p in block.named_parameters()
        if p.ndim > 1
    )
    width = sites[0].d_in
    flops = tokens * (2 * matrices + 4 * length * width * len(blocks))
    hidden = max(site.d_hidden or 4 * site.d_in for site in sites)
    rows = sum(site.d_in + site.d_out for site in sites)
    element = next(p for p in model.parameters() if p.is_floating_point()).element_size()
    return int(flops), tokens * element * (4 * width + 3 * hidden + rows)


def _routed_share(model: nn.Module) -> float:
    """Share of a mixture's experts that a token goes through; 1 where there is none."""
    config = text_config(model)
    chosen = getattr(config, "num_experts_per_tok", None)
    for key in ("num_local_experts", "n_routed_experts", "num_experts"):
        every = getattr(config, key, None)
        if isinstance(every, int) and isinstance(chosen, int) and 0 < chosen <= every:
            return chosen / every
    return 1.0
