"""Who holds which of a row of things: tokens of a batch, units of a layer."""

from dataclasses import dataclass

from mxd.errors import UserError


@dataclass(frozen=True)
class Split:
    """Rows in consecutive stretches, one for each rank of a group, in the ranks' order."""

    counts: tuple[int, ...]
    """How many rows each rank holds; it may hold none."""
    rank: int
    """This process's place in the group."""

    @classmethod
    def even(cls, total: int, ranks: int, rank: int) -> "Split":
        """Stretches that differ by one row at most; the first ranks hold the longer ones."""
        least, more = divmod(total, ranks)
        return cls(tuple(least + (r < more) for r in range(ranks)), rank)

    @property
    def ranks(self) -> int:
        """How many ranks share the rows."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """Rows of all ranks."""
        return sum(self.counts)

    @property
    def own(self) -> slice:
        """Where this rank's rows lie among all."""
        return slice(self._start, self._start + self.counts[self.rank])

    @property
    def _start(self) -> int:
        return sum(self.counts[: self.rank])

    @property
    def own_count(self) -> int:
        """How many rows this rank holds."""
        return self.counts[self.rank]

    def own_among_first(self, count: int) -> int:
        """How many of the first `count` of all rows this rank holds; they are its first ones."""
        return min(max(count - self._start, 0), self.own_count)


def split_units(n_units: int, ranks: int, rank: int) -> Split:
    """Units of one layer dealt out to the ranks of a group.

    Raises:
        UserError: fewer units than ranks.
    """
    if n_units < ranks:
        raise UserError(
            f"got a layer of {n_units} units for {ranks} ranks, expected at least one for each; "
            f"give a layout with experts={n_units} or fewer"
        )
    return Split.even(n_units, ranks, rank)
