"""A student that several processes train: its part of a batch, of its units, or of both."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from mxd.layers import Codes, Layer, SparseLayer
from mxd.training.companions import Companions
from mxd.training.distributed.agreement import total
from mxd.training.distributed.experts import ExpertParallel
from mxd.training.distributed.gradients import gradient_norm, sum_gradients
from mxd.training.distributed.shard_layer import unit_parameters
from mxd.training.distributed.split import Split
from mxd.training.distributed.traffic import received

if TYPE_CHECKING:
    from mxd.training.distributed.processes import Processes


class Replicas(Companions):
    """The companions of a student whose batch, units or both are spread over processes.

    A step's loss is the mean over all its tokens: each process's mean counts with its share of
    them, and gradients are summed. Figures are then the same bytes on all processes.

    Args:
        team: the processes; it knows who has how many rows.
        layer: the student's layer, this process's part of it.
        parallel: how its units are shared; None where all are here.
    """

    def __init__(self, team: "Processes", layer: Layer, parallel: ExpertParallel | None) -> None:
        self._team, self._groups, self.parallel = team, team.groups, parallel
        self._units: dict[str, nn.Parameter] = {}
        self.keeps = team.groups.place[0] == 0
        if parallel is not None:
            # Running out of memory on one of them alone would leave the others waiting.
            self.may_split = False
            self.units, self.part = parallel.units.own, team.groups.place[2]
            self._units = unit_parameters(parallel.layer)
        mine = {id(p) for p in self._units.values()}
        self._rest = [p for p in layer.parameters() if id(p) not in mine]
        self._share = torch.zeros(())

    @property
    def _tokens(self) -> Split:
        """Whose dense part is computed where: all have all rows, so each takes as many."""
        layout, place = self._groups.layout, self._groups.place
        return Split.even(self._team.batch.total, layout.experts, place[2])

    def begin(self, y: Tensor) -> None:
        """As `Companions.begin`."""
        known = (y[self.own].square().sum(-1) > 0).sum()
        self._share = known / total(known, self._groups.replicas).clamp(min=1)

    def tokens(self, rows: int) -> int:
        """As `Companions.tokens`."""
        return self._team.rows

    @property
    def own(self) -> slice:
        """As `Companions.own`."""
        return slice(None) if self.parallel is None else self._tokens.own

    def encode(self, layer: SparseLayer, x: Tensor, k: int | None) -> Codes:
        """As `Companions.encode`."""
        if self.parallel is None:
            return layer.encode(x, k)
        return self.parallel.encode(x, self._tokens, k)

    def encode_among(self, layer: SparseLayer, x: Tensor, members: Tensor, k: int) -> Codes:
        """As `Companions.encode_among`."""
        if self.parallel is None:
            return super().encode_among(layer, x, members, k)
        return self.parallel.encode_among(x, self._tokens, members, k)

    def combined(self, layer: SparseLayer, codes: Codes) -> Tensor:
        """As `Companions.combined`."""
        if self.parallel is None:
            return layer.combined(codes)
        return self.parallel.combined(codes, self._tokens)

    def part_of(self, mean: Tensor) -> Tensor:
        """As `Companions.part_of`."""
        return mean * self._share

    def mean_sum(self, values: Tensor) -> Tensor:
        """As `Companions.mean_sum`."""
        return values.sum() / self._team.rows

    def summed(self, *figures: Tensor) -> tuple[Tensor, ...]:
        """As `Companions.summed`."""
        return total(torch.stack(figures), self._groups.replicas).unbind()

    def hit(self, hits: Tensor) -> Tensor:
        """As `Companions.hit`."""
        flags = (hits > 0).to(torch.uint8)
        if self._groups.data is not None:
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._groups.data)
            received("sum", flags.numel())
        return flags

    def count(self, flags: Tensor) -> int:
        """As `Companions.count`."""
        return int(total(flags.sum(), self._groups.experts))

    def fraction(self, flags: Tensor) -> float:
        """As `Companions.fraction`."""
        found = torch.stack([flags.sum(), torch.tensor(len(flags), device=flags.device)])
        held, units = total(found, self._groups.experts).tolist()
        return float(held / units)

    def sum_gradients(self, layer: Layer) -> None:
        """As `Companions.sum_gradients`."""
        sum_gradients(self._rest, self._groups.replicas)
        if self._units:
            sum_gradients(self._units.values(), self._groups.data)

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """As `Companions.gradient_norm`."""
        return gradient_norm(self._rest, self._units.values(), self._groups.experts)
