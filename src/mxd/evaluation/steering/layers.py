"""Stand-ins for a layer with units turned up: one for all rows, or another in each row."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.layers import MxD, SparseLayer


class Steered(nn.Module):
    """A layer with a constant added to one unit's coefficient at every token.

    Raises:
        UserError: a constant that the layer's numbers do not hold.
    """

    def __init__(self, layer: SparseLayer, unit: int, strength: int | float) -> None:
        super().__init__()
        if not abs(strength) <= torch.finfo(layer.bias.dtype).max:
            raise UserError(
                f"got strength {strength}, which {layer.bias.dtype} does not hold, expected a "
                "smaller strength"
            )
        self.layer, self.unit, self.strength = layer, unit, strength
        self.config, self.reads, self.provenance = layer.config, layer.reads, layer.provenance

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """ŷ with a_n + strength."""
        codes = self.layer.encode(x).plus(self.unit, self.strength)
        return self.layer.decode(codes, x)


class SteeredRows(nn.Module):
    """A layer with another direction added in each row of the batch.

    Row i computes what the layer would with `strengths[i]` added to the coefficient of a unit
    whose modulator (MxD) or decoder row (all others) is `directions[i]`. So it serves the layer's
    own units, directions that no unit has, and with strength 0 the layer as it is.

    Args:
        layer: the layer.
        directions: a row of the layer's table of units, or any other, for each row of the batch.
        strengths: what is added to its coefficient at every token.
    """

    def __init__(
        self,
        layer: SparseLayer,
        directions: Float[Tensor, "rows d_out"],
        strengths: Float[Tensor, "rows"],
    ) -> None:
        super().__init__()
        self.layer = layer
        self.added = directions * strengths.to(directions)[:, None]
        self.config, self.reads, self.provenance = layer.config, layer.reads, layer.provenance

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """ŷ of each row with its own direction; some hosts flatten (rows, tokens) on the way."""
        rows = len(self.added)
        tokens = x.shape[:-1].numel() // rows
        added = self.added.repeat_interleave(tokens, dim=0).view(*x.shape[:-1], -1)
        if isinstance(self.layer, MxD):
            added = added * self.layer.dense_branch(x)
        y: Tensor = self.layer(x) + added
        return y


def random_rows(
    layer: SparseLayer, units: Sequence[int], *, seed: int
) -> Float[Tensor, "units d_out"]:
    """A random direction for each unit, as long as the unit's own row; the control of a study.

    The direction depends on the seed and the unit alone, not on which other units there are.
    """
    own = layer.unit_rows.detach()[list(units)]
    drawn = torch.stack(
        [
            torch.from_numpy(np.random.default_rng([seed, unit]).standard_normal(own.shape[1]))
            for unit in units
        ]
    )
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    rows: Tensor = drawn.to(own) * own.norm(dim=-1, keepdim=True)
    return rows
