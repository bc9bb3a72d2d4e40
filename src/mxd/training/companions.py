"""What a student's step needs of the processes that train the same student; here, of none."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from mxd.kernels import gate
from mxd.layers import Codes, Layer, SparseLayer


class Companions:
    """A student whose whole batch and all of whose units are in this process."""

    may_split = True
    """Whether a step may be tried again in smaller parts."""
    keeps = True
    """Whether this process stores the student, or its part of it."""
    units: slice | None = None
    """Which units are here; None for all of them."""
    part = 0
    """The number of that part."""

    def begin(self, y: Tensor) -> None:
        """Begin a step on the rows y of the group's batch."""

    def tokens(self, rows: int) -> int:
        """Tokens of the step over all processes; `rows` are those of the group's batch."""
        return rows

    @property
    def own(self) -> slice:
        """The rows of the group's batch whose dense part is computed here."""
        return slice(None)

    def encode(self, layer: SparseLayer, x: Tensor, k: int | None) -> Codes:
        """The active units that are here, for the group's batch."""
        return layer.encode(x, k)

    def encode_among(self, layer: SparseLayer, x: Tensor, members: Tensor, k: int) -> Codes:
        """As `encode`, the k most active of some units alone, (members,); those that are here."""
        linear = layer.gate_linear
        values, places = gate(
            layer.fed(x), linear.weight[members], linear.bias[members], k, check=False
        )
        return Codes(values, members[places], layer.config.n_units)

    def combined(self, layer: SparseLayer, codes: Codes) -> Tensor:
        """What the active units of all processes give together, for the own rows."""
        return layer.combined(codes)

    def part_of(self, mean: Tensor) -> Tensor:
        """What a mean over the own rows with y ≠ 0 adds to that over all rows of the step."""
        return mean

    def mean_sum(self, values: Tensor) -> Tensor:
        """What the rows here add to the mean over the step's tokens of Σ values, (tokens, k)."""
        return values.sum(-1).mean()

    def summed(self, *figures: Tensor) -> tuple[Tensor, ...]:
        """Figures summed over all processes."""
        return figures

    def hit(self, hits: Tensor) -> Tensor:
        """Which units were active on any process; positive where one was."""
        return hits

    def count(self, flags: Tensor) -> int:
        """The number of units for which it holds, of all."""
        return int(flags.sum())

    def fraction(self, flags: Tensor) -> float:
        """The share of all units for which it holds."""
        return float(flags.double().mean())

    def sum_gradients(self, layer: Layer) -> None:
        """Make all gradients those of the whole step."""

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """The norm of all gradients of the layer."""
        norm: Tensor = get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm


ALONE = Companions()
"""There is no other process."""
