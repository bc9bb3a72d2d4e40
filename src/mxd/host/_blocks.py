"""The stack of blocks in a model, and the modules in a block that have the shape of an MLP."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from mxd.errors import UserError
from mxd.host._calls import text_config
from mxd.host._linear import Projection, child_projections, join


@dataclass(frozen=True, eq=False)
class Candidate:
    """Linear maps that have the shapes of an MLP: d→h (once, twice or fused) and h→d."""

    name: str
    """Dotted name of the module whose children they are."""
    module: nn.Module
    encoder: Projection
    up: Projection | None
    decoder: Projection
    split: bool
    """The module is the block itself, so that no module has the MLP's boundary."""


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The model's main stack of blocks by dotted name, in order.

    Raises:
        UserError: the model has no list of modules.
    """
    lists = list(_outer_lists(model, ""))
    if not lists:
        raise UserError(
            f"got a {type(model).__name__} without a list of blocks, expected a transformer with "
            "an nn.ModuleList of them; name a module instead (find_site, or --site NAME)"
        )
    depth = _configured_depth(model)
    # Of two stacks (vision and text, say) the one as deep as the configuration says is meant.
    name, blocks = max(lists, key=lambda item: (len(item[1]) == depth, len(item[1])))
    return {f"{name}.{index}": block for index, block in enumerate(blocks)}


def _outer_lists(module: nn.Module, name: str) -> Iterator[tuple[str, nn.ModuleList]]:
    """Lists of modules that are in no other list: blocks, but not experts within a block."""
    for child_name, child in module.named_children():
        dotted = join(name, child_name)
        if isinstance(child, nn.ModuleList):
            if len(child):
                yield dotted, child
        else:
            yield from _outer_lists(child, dotted)


def _configured_depth(model: nn.Module) -> int | None:
    return getattr(text_config(model), "num_hidden_layers", None)


def mlp_candidates(block_name: str, block: nn.Module) -> list[Candidate]:
    """Everything in a block that has the shape of its MLP; attention can be among it."""
    found: list[Candidate] = []
    for name, module in block.named_modules():
        if not _is_alone(block, name, module):
            continue
        dotted = join(block_name, name)
        for encoder, up, decoder in _arrangements(child_projections(dotted, module)):
            found.append(Candidate(dotted, module, encoder, up, decoder, split=module is block))
    return found


def _is_alone(block: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether nothing between the block and the module holds other matrices.

    An expert (routed or shared) of a mixture has the shape of an MLP but is only a part of one.
    """
    own = {id(p) for p in module.parameters()}
    parents = name.split(".")[:-1]
    for depth in range(1, len(parents) + 1):
        parent = block.get_submodule(".".join(parents[:depth]))
        if any(p.ndim > 1 and id(p) not in own for p in parent.parameters()):
            return False
    return True


def _arrangements(
    maps: list[Projection],
) -> Iterator[tuple[Projection, Projection | None, Projection]]:
    """Ways to read linear maps as (encoder, up, decoder), the likeliest first."""
    for decoder in reversed(maps):
        rest = [other for other in maps if other is not decoder]
        if any(other.d_from != decoder.d_to for other in rest):
            continue
        widths = [other.d_to for other in rest]
        if widths == [decoder.d_from]:
            yield rest[0], None, decoder
        elif widths == [2 * decoder.d_from]:
            for gate, up in itertools.permutations(rest[0].halves()):
                yield gate, up, decoder
        elif widths == [decoder.d_from] * 2:
            # A map called "gate" goes first; where none is, the order of the children is the guess.
            rest.sort(key=lambda projection: "gate" not in projection.name.rpartition(".")[2])
            for gate, up in itertools.permutations(rest):
                yield gate, up, decoder


def describe_block(name: str, block: nn.Module) -> str:
    """One line that says what a block holds, for the message that it holds no MLP."""
    parts = []
    for child_name, child in block.named_children():
        shapes = [f"{key} {tuple(p.shape)}" for key, p in child.named_parameters() if p.ndim > 1]
        shown = ", ".join(shapes[:6]) + (", …" if len(shapes) > 6 else "")
        parts.append(f"{child_name} ({type(child).__name__}{': ' + shown if shown else ''})")
    return f"{name} ({type(block).__name__}) holds " + "; ".join(parts)
