"""One layer's units on several ranks: keep this rank's rows of a layer, and put it together again.

A layer is built whole, on the host, so that it starts at the same numbers as in a single process:
while it is cut, a rank holds N · (I + O + 1) numbers and its own part of them. Afterwards it holds
its part alone.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.layers import SparseLayer
from mxd.training.distributed.collectives import Group
from mxd.training.distributed.split import Split


def unit_parameters(layer: SparseLayer) -> dict[str, nn.Parameter]:
    """The parameters with one row for each unit, by name: gate (or encoder), and unit rows."""
    linear = layer.gate_linear
    rows = {id(p) for p in (linear.weight, linear.bias, layer.unit_rows)}
    return {name: p for name, p in layer.named_parameters() if id(p) in rows}


def replicated_parameters(layer: SparseLayer) -> dict[str, nn.Parameter]:
    """The others, which every rank holds whole."""
    units = unit_parameters(layer)
    return {name: p for name, p in layer.named_parameters() if name not in units}


@torch.no_grad()
def shard_layer(layer: SparseLayer, units: Split) -> SparseLayer:
    """Keep only this rank's units of a layer, in place; its configuration stays that of the whole.

    Args:
        layer: the whole layer. What is not kept is let go of.
        units: which units are whose (`split_units`).

    Returns:
        The layer itself. It is trained through `ExpertParallel`: its own `encode` knows of no
        other rank.

    Raises:
        UserError: the layer has another number of units.
    """
    if len(layer.unit_rows) != units.total:
        raise UserError(
            f"got a layer with {len(layer.unit_rows)} rows of units and a split of {units.total}, "
            "expected a whole layer and a split of its units"
        )
    for name, parameter in unit_parameters(layer).items():
        # A copy, since a slice would keep the whole alive.
        kept = nn.Parameter(parameter[units.own].clone(), requires_grad=parameter.requires_grad)
        owner, _, last = name.rpartition(".")
        setattr(layer.get_submodule(owner), last, kept)
    layer.gate_linear.out_features = units.own_count
    return layer


@torch.no_grad()
def gather_units(
    tensor: Tensor, units: Split, group: Group, *, piece_bytes: int = 64 << 20
) -> Tensor | None:
    """All ranks' rows of a tensor (a parameter, its moments) on the CPU of the group's first rank.

    Args:
        tensor: this rank's rows, (own units, …).
        units: which units are whose.
        group: the ranks that share them; all have to call it.
        piece_bytes: bytes that travel at one time.

    Returns:
        The whole tensor on the first rank, None on the others.
    """
    own = tensor.detach().cpu().contiguous()
    if group is None:
        return own
    step = max(1, piece_bytes // max(1, own[:1].numel() * own.element_size()))
    if units.rank > 0:
        for piece in own.split(step):
            dist.send(piece, group=group, group_dst=0)
        return None
    whole = own.new_empty((units.total, *own.shape[1:]))
    whole[units.own] = own
    for rank in range(1, units.ranks):
        there = whole[Split(units.counts, rank).own]
        for piece in there.split(step):
            dist.recv(piece, group=group, group_src=rank)
    return whole


@torch.no_grad()
def gather_layer(layer: SparseLayer, units: Split, group: Group) -> SparseLayer | None:
    """The whole layer on the CPU of the group's first rank, None on the others.

    Args:
        layer: this rank's part.
        units: which units are whose.
        group: the ranks that share them; all have to call it.
    """
    tensors = dict(_whole_tensors(layer, units, group))
    if units.rank > 0:
        return None
    with torch.device("meta"):  # takes no memory and draws no random numbers
        whole = type(layer)(layer.config)
    whole.load_state_dict(tensors, assign=True)
    whole.provenance, whole.statistics = layer.provenance, dict(layer.statistics)
    return whole.train(layer.training)


def _whole_tensors(
    layer: SparseLayer, units: Split, group: Group
) -> Iterator[tuple[str, nn.Parameter]]:
    shared = unit_parameters(layer)
    for name, parameter in layer.named_parameters():
        found: Tensor | None = parameter.detach().cpu()
        if name in shared:
            found = gather_units(parameter, units, group)
        if found is not None and units.rank == 0:
            yield name, nn.Parameter(found, requires_grad=parameter.requires_grad)
