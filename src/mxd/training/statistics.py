"""The means over training tokens that are stored with layers, over all text shards of a run."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.data import ShardedStream, SiteActivations
from mxd.errors import UserError
from mxd.layers import MxD, sum_rows, take_statistics
from mxd.training.recipe import BufferRecipe
from mxd.training.student import Student
from mxd.training.team import Team

_SAMPLE_TOKENS = 65_536
_AT_ONCE = 4096
"""Rows of one process that are looked at together."""


def mean_outputs(stream: ShardedStream, widths: dict[str, int], team: Team) -> dict[str, Tensor]:
    """The mean of y over the first buffers of all shards, for each site's name.

    Args:
        stream: this process's shards.
        widths: d_out of each site.
        team: the processes of the run.

    Raises:
        UserError: on all of them: no shard holds any text.
    """
    buffers = stream.first_buffers()
    if team.all(not buffers):
        raise UserError(
            "got no text in any text shard, expected at least one document that is not empty; "
            "choose a source that holds text"
        )
    return {name: _mean(buffers, name, width, team) for name, width in widths.items()}


def _mean(buffers: list[SiteActivations], name: str, width: int, team: Team) -> Tensor:
    """Summed in float64, in the order of the shards: the same bytes whoever holds which."""
    sums = [_sum_and_count(buffer[name][1]).cpu() for buffer in buffers]
    own = torch.stack(sums) if sums else torch.zeros((0, width + 1), dtype=torch.float64)
    total = team.stacked(own).sum(0)
    return (total[:-1] / total[-1]).float()


def _sum_and_count(y: Tensor) -> Tensor:
    """Σ y and how many rows there are, (d_out + 1,)."""
    return torch.cat([sum_rows(y), torch.tensor([len(y)], dtype=torch.float64, device=y.device)])


@torch.no_grad()
def store_means(
    students: Sequence[Student],
    stream: ShardedStream,
    widths: dict[str, int],
    kept: BufferRecipe,
    team: Team,
) -> None:
    """Store in every student's layer what `take_statistics` does, over all shards' buffers.

    Args:
        students: those of this process.
        stream: its shards.
        widths: d_in of each site; the same sites in the same order on all processes.
        kept: where the buffers are, and in which type.
        team: the processes of the run.
    """
    buffers = stream.first_buffers()
    if team.size == 1 and len(buffers) == 1:
        for student in students:
            take_statistics(student.layer, *buffers[0][student.site])
        return
    for site, width in widths.items():
        # Rows travel: those of a process without a shard must be of the same kind.
        dtype = getattr(torch, kept.dtype)
        nothing = torch.zeros((0, width), dtype=dtype, device=kept.device)
        there = [student for student in students if student.site == site]
        _store_for_site(there, [buffer[site] for buffer in buffers], nothing, team)


def _store_for_site(
    students: list[Student], buffers: list[tuple[Tensor, Tensor]], nothing: Tensor, team: Team
) -> None:
    tokens = int(team.total(torch.tensor(sum(len(x) for x, _ in buffers))))
    stride = max(1, tokens // _SAMPLE_TOKENS)  # spread over all of them
    x = torch.cat([nothing, *(x[::stride] for x, _ in buffers)])
    count = team.total(torch.tensor(len(x)))
    modulated = [student for student in students if isinstance(student.layer, MxD)]
    sums = [torch.zeros(s.layer.config.d_out, dtype=torch.float64) for s in modulated]
    for rows in _shared_rows(x, team):
        for student, total in zip(modulated, sums, strict=True):
            total += _modulation(student, rows).double().sum(0).cpu()
    for student, total in zip(modulated, sums, strict=True):
        (summed,) = student.companions.summed(total.to(student.layer.bias.device))
        student.layer.statistics["mean_modulation"] = (summed.cpu() / count).float()
    _store_mean_output(students, [y[::stride] for _, y in buffers], count, team)


def _store_mean_output(
    students: list[Student], ys: list[Tensor], count: Tensor, team: Team
) -> None:
    widths = {student.layer.config.d_out for student in students}
    width = int(max(team.listed([*widths])))
    own = torch.zeros(width, dtype=torch.float64)
    for y in ys:
        own += sum_rows(y).cpu()
    mean = (team.total(own) / count).float()
    for student in students:
        student.layer.statistics["mean_output"] = mean.clone()


def _shared_rows(
    x: Float[Tensor, "tokens d_in"], team: Team
) -> Iterator[Float[Tensor, "shared d_in"]]:
    """Rows of all processes that see the same batches, some at a time."""
    for start in range(0, team.meet(len(x)), _AT_ONCE):
        piece = x[start : start + _AT_ONCE]
        team.meet(len(piece))
        rows = team.shared(piece)
        if len(rows):
            yield rows


def _modulation(student: Student, rows: Tensor) -> Tensor:
    layer = student.layer
    assert isinstance(layer, MxD)
    fed = rows.to(layer.bias.device, layer.bias.dtype)
    codes = student.companions.encode(layer, fed, None)
    return student.companions.combined(layer, codes)
