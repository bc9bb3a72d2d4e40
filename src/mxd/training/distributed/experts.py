"""One layer whose units are spread over ranks, with the exact top-k over all of them.

Every rank has the inputs of the group's whole batch and rows of gate and units of its own. What
travels is at most K values of each token from each rank to the rank that owns the token, one count
back, and the units' weighted sums, which are d_out wide: nothing is ever as wide as N.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mxd.errors import UserError
from mxd.kernels import check_numbers, chosen, gate
from mxd.layers import Codes, SparseLayer
from mxd.layers._parts import select_units
from mxd.training.distributed.collectives import Group, from_owners, sum_rows, to_owners
from mxd.training.distributed.split import Split


@dataclass(frozen=True)
class ExpertParallel:
    """A sparse layer on several ranks, each with some of its units.

    Its result is the single process's up to the order of sums. Of units that are equally large at
    the K-th place, those of the first ranks are kept; within a rank it is the gate's own choice.

    After a backward pass, gradients of units are complete for the tokens of this group, while
    gradients of replicated parameters are this rank's part: they have to be summed over the group
    (`sum_gradients`).
    """

    layer: SparseLayer
    """This rank's part (`shard_layer`)."""
    units: Split
    """Which units are whose."""
    group: Group
    """The ranks that share the layer."""

    def __post_init__(self) -> None:
        if self.layer.config.edits:
            raise UserError(
                "got a layer with edits to train on several ranks, expected one without; edit it "
                "after training"
            )
        if len(self.layer.unit_rows) != self.units.own_count:
            raise UserError(
                f"got {len(self.layer.unit_rows)} units, expected {self.units.own_count} of "
                f"{self.units.total} on rank {self.units.rank}; cut the layer with shard_layer"
            )

    def __call__(
        self, x: Float[Tensor, "tokens d_in"], tokens: Split, k: int | None = None
    ) -> Float[Tensor, "own d_out"]:
        """ŷ for this rank's own tokens of the group's batch x; `k` overrides the configured K."""
        combined = self.combined(self.encode(x, tokens, k), tokens)
        return self.layer.finish(combined, x[tokens.own])

    def encode(self, x: Float[Tensor, "tokens d_in"], tokens: Split, k: int | None = None) -> Codes:
        """The active units of the whole batch that are this rank's, numbered from its first one.

        Args:
            x: inputs of the group's batch, the same on all ranks.
            tokens: which tokens are whose; the work of choosing is split by it.
            k: overrides the configured K; the same on all ranks.

        Returns:
            Codes of as many columns as any token needs here, 1 to K. A value is 0 where a
            token's other active units are elsewhere. Waits for the device.

        Raises:
            UserError: k leaves no unit to choose, or NaN in x.
        """
        layer, config = self.layer, self.layer.config
        if k is not None and k < config.least_k:
            raise UserError(f"got k={k}, expected at least {config.least_k}")
        check_numbers(x)
        fed = layer.fed(x)
        shared = config.least_k - 1  # the first units, always on and never chosen
        skip = self.units.own_among_first(shared)
        if config.sparsity == "l1" and k is None:
            codes = self._positive(fed, skip)
        else:
            wanted = min(config.k if k is None else k, config.n_units) - shared
            codes = self._largest(fed, tokens, wanted, skip)
        return _with_always_on(codes, skip, self.units.own_count)

    def encode_among(
        self,
        x: Float[Tensor, "tokens d_in"],
        tokens: Split,
        members: Int[Tensor, "members"],
        k: int,
    ) -> Codes:
        """As `encode`, of the `k` largest coefficients of some units alone.

        Args:
            x: inputs of the group's batch, the same on all ranks.
            tokens: which tokens are whose.
            members: numbers of those units that are here, from this rank's first one; there may be
                none.
            k: at most as many as there are such units on all ranks together.
        """
        linear, fed = self.layer.gate_linear, self.layer.fed(x)
        weight, bias = linear.weight[members], linear.bias[members]
        values, places = self._selected(fed, tokens, weight, bias, k, 0)
        indices = members[places] if len(members) else places
        return Codes(values, indices, self.units.own_count)

    def combined(self, codes: Codes, tokens: Split) -> Float[Tensor, "own d_out"]:
        """What the active units of all ranks give together, for this rank's own tokens."""
        return sum_rows(self.layer.combined(codes), tokens, self.group)

    def _positive(self, fed: Tensor, skip: int) -> Codes:
        """Every positive coefficient (`l1`): no rank needs to know of another's."""
        router = self.layer.gate_linear
        if skip == self.units.own_count:
            values, indices = _unused_slot(fed)
            values = chosen(fed, router.weight, router.bias, values, indices)
        else:
            values, indices = select_units(fed, router, self.layer.config, skip=skip)
        return Codes(values, indices, self.units.own_count)

    def _largest(self, fed: Tensor, tokens: Split, wanted: int, skip: int) -> Codes:
        """This rank's part of the `wanted` largest coefficients of each token."""
        weight, bias = self.layer.gate_linear.weight, self.layer.gate_linear.bias
        values, indices = self._selected(fed, tokens, weight, bias, wanted, skip)
        return Codes(values, indices, self.units.own_count)

    def _selected(
        self, fed: Tensor, tokens: Split, weight: Tensor, bias: Tensor, wanted: int, skip: int
    ) -> tuple[Tensor, Tensor]:
        """Values and rows of these weights, from the row `skip` on, that are among the `wanted`."""
        own_k = min(wanted, len(weight) - skip)
        with torch.no_grad():
            values, indices = _unused_slot(fed)
            if own_k > 0:
                values, indices = gate(fed, weight, bias, own_k, skip=skip, check=False)
            kept = _kept_of(values, wanted, tokens, self.group)
            # Narrower than K for most tokens: less to gather, forward and backward.
            most = max(1, min(own_k, int(kept.max()))) if len(kept) else 1
            places = torch.arange(most, device=kept.device)
            values = torch.where(places < kept.unsqueeze(1), values[:, :most], 0.0)
            indices = indices[:, :most].contiguous()
        if not len(weight):  # a unit that is not chosen stands for none
            return values, indices
        return chosen(fed, weight, bias, values, indices), indices


def _kept_of(
    values: Float[Tensor, "tokens own_k"], k: int, tokens: Split, group: Group
) -> Int[Tensor, "tokens"]:
    """How many of its largest coefficients this rank keeps of each token."""
    padded = torch.nn.functional.pad(values, (0, k - values.shape[1]))
    shares = shares_of_largest(to_owners(padded, tokens, group), k)
    return from_owners(shares, tokens, group)


def shares_of_largest(
    candidates: Float[Tensor, "ranks tokens width"], k: int
) -> Int[Tensor, "ranks tokens"]:
    """How many of each rank's largest values are among the k largest of all ranks together.

    Args:
        candidates: each rank's values of each token, in any order within it. NaN counts as largest.
        k: 1 ≤ k ≤ ranks · width.

    Returns:
        Counts that add up to k for each token, int32. Of equal values at the k-th place, those of
        the first ranks count.
    """
    ranked = torch.where(candidates.isnan(), torch.inf, candidates)
    least = ranked.transpose(0, 1).flatten(1).topk(k, dim=1).values[:, -1:]
    larger = (ranked > least).sum(-1)
    equal = (ranked == least).sum(-1)
    before = equal.cumsum(0) - equal
    room = (k - larger.sum(0) - before).clamp(min=0)
    return (larger + torch.minimum(equal, room)).to(torch.int32)


def _unused_slot(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of a rank that has nothing to choose from: one column, which counts for nothing."""
    return x.new_zeros((len(x), 1)), torch.zeros((len(x), 1), dtype=torch.int64, device=x.device)


def _with_always_on(codes: Codes, count: int, units: int) -> Codes:
    """The codes with the rank's first `count` of `units` before them, each with coefficient 1."""
    if not count:
        return codes
    values, indices = codes
    ones = values.new_ones((len(values), count))
    first = torch.arange(count, device=indices.device).expand(len(indices), count)
    if count == units:  # the slot that is not used would name one of them a second time
        return Codes(ones + values, first, units)
    return Codes(torch.cat([ones, values], 1), torch.cat([first, indices], 1), units)
