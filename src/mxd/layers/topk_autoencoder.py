"""TopK sparse autoencoder of the MLP's output."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.layers._parts import linear, select_units, unit_table
from mxd.layers.base import SparseLayer
from mxd.layers.codes import Codes
from mxd.layers.config import SparseConfig


@dataclass(kw_only=True)
class TopKAutoencoderConfig(SparseConfig):
    """Configuration of a `TopKAutoencoder`; d_in and d_out are both the width of the output."""

    n_latents: int
    """N, how many latents there are to choose from."""

    architecture: ClassVar[str] = "topk_autoencoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_in != self.d_out:
            raise UserError(
                f"got d_in={self.d_in} and d_out={self.d_out}, expected the same: an autoencoder "
                "reconstructs what it reads"
            )

    @property
    def n_units(self) -> int:
        """Number of latents."""
        return self.n_latents


class TopKAutoencoder(SparseLayer):
    """ŷ = W_decᵀ TopK_K(ReLU(W_enc (y − b) + b_enc)) + b, fed with the MLP's own output y.

    Grafting it runs the original MLP and then the autoencoder. Parameters: `encoder.weight`
    W_enc (N, O), `encoder.bias`; `decoder` W_dec (N, O); `bias` b (O).
    """

    config: TopKAutoencoderConfig
    config_class = TopKAutoencoderConfig
    reads = "output"

    def __init__(self, config: TopKAutoencoderConfig) -> None:
        super().__init__(config)
        self.encoder = linear(config.d_in, config.n_latents)
        self.decoder = unit_table(config.n_latents, config.d_out)
        self.bias = nn.Parameter(torch.zeros(config.d_out))
        if config.unit_norm:
            self.normalise_units()

    @property
    def gate_linear(self) -> nn.Linear:
        """The encoder W_enc."""
        return self.encoder

    def fed(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """y − b."""
        return x - self.bias

    @property
    def unit_rows(self) -> nn.Parameter:
        """The decoder rows W_dec."""
        return self.decoder

    def encode(self, x: Float[Tensor, "*batch d_in"], k: int | None = None) -> Codes:
        """Latent activations of an MLP output x: k columns, descending."""
        return self.edit_codes(select_units(x, self.encoder, self.config, k, centre=self.bias))

    def finish(
        self, combined: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"] | None
    ) -> Float[Tensor, "*batch d_out"]:
        """W_decᵀ a + b; x is not needed."""
        return combined + self.bias
