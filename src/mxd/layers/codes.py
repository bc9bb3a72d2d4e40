"""The K active units of each token and their coefficients."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mxd.errors import UserError
from mxd.kernels import naive


@dataclass(frozen=True)
class Codes:
    """Sparse coefficients a ∈ Rᴺ of a batch of tokens, as their K entries.

    An unused slot has value 0 and a valid index. A unit that is named twice counts with the sum.
    """

    values: Float[Tensor, "*batch k"]
    """Coefficients a_n of the active units."""
    indices: Int[Tensor, "*batch k"]
    """The units they belong to, each in [0, N)."""
    n_units: int | None = None
    """N, the number of units to choose from; needed for `dense` alone."""

    def __iter__(self) -> Iterator[Tensor]:
        """Unpacks as `values, indices = codes`."""
        yield self.values
        yield self.indices

    def dense(self) -> Float[Tensor, "*batch n"]:
        """The N-wide vector a itself, (..., N).

        Raises:
            UserError: these codes were made without their number of units.
        """
        if self.n_units is None:
            raise UserError("these codes do not say N; make them with Codes(values, indices, N)")
        return naive.densify(self.values, self.indices, self.n_units)

    def plus(self, unit: int, value: int | float) -> "Codes":
        """These codes with `value` added to one unit's coefficient at every token (steering).

        Raises:
            UserError: there is no such unit.
        """
        if unit < 0 or (self.n_units is not None and unit >= self.n_units):
            last = "up" if self.n_units is None else self.n_units - 1
            raise UserError(f"got unit {unit}, expected 0 to {last}")
        column = torch.full_like(self.values[..., :1], value)
        index = torch.full_like(self.indices[..., :1], unit)
        return Codes(
            torch.cat([self.values, column], dim=-1),
            torch.cat([self.indices, index], dim=-1),
            self.n_units,
        )
