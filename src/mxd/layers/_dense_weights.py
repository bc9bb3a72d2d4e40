"""The weights of a dense MLP, in the paper's notation, whatever the model calls them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DenseWeights:
    """One MLP y = Dᵀ φ(E x + e) + b, or with a GLU y = Dᵀ (φ(E x + e) ⊙ (U x + u)) + b.

    A missing bias is None and counts as zero.
    """

    encoder: Float[Tensor, "d_hidden d_in"]
    encoder_bias: Float[Tensor, "d_hidden"] | None
    encoder_up: Float[Tensor, "d_hidden d_in"] | None
    """U, the linear factor of a GLU; None for a plain MLP."""
    encoder_up_bias: Float[Tensor, "d_hidden"] | None
    decoder: Float[Tensor, "d_hidden d_out"]
    bias: Float[Tensor, "d_out"] | None
    activation: str
    """φ, by its name in transformers' ACT2FN."""

    @property
    def glu(self) -> bool:
        """Whether the MLP is a gated linear unit."""
        return self.encoder_up is not None
