"""Transcoder, with or without a linear skip: sparse hidden units in place of the dense ones."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.layers._parts import linear, select_units, unit_table
from mxd.layers.base import SparseLayer
from mxd.layers.codes import Codes
from mxd.layers.config import SparseConfig


@dataclass(kw_only=True)
class TranscoderConfig(SparseConfig):
    """Configuration of a `Transcoder`."""

    n_latents: int
    """N, how many latents there are to choose from."""
    skip: bool = False
    """Add a linear map of the input, S x (a skip transcoder)."""

    @property
    def architecture(self) -> str:  # type: ignore[override]
        """`transcoder` or `skip_transcoder`."""
        return "skip_transcoder" if self.skip else "transcoder"

    @property
    def n_units(self) -> int:
        """Number of latents."""
        return self.n_latents


class Transcoder(SparseLayer):
    """ŷ = W_decᵀ a + b (+ S x) with a = TopK_K(ReLU(W_enc x + b_enc)).

    Parameters: `encoder.weight` W_enc (N, I), `encoder.bias`; `decoder` W_dec (N, O); `bias` (O);
    optional `skip` S (O, I), applied as x @ skip.T. With a skip, W_dec and S start at zero.
    """

    config: TranscoderConfig
    config_class = TranscoderConfig

    def __init__(self, config: TranscoderConfig) -> None:
        if config.skip and config.unit_norm:
            raise UserError(
                "got unit_norm for a skip transcoder, expected it off: its decoder rows start at "
                "zero and have no direction to keep"
            )
        super().__init__(config)
        self.encoder = linear(config.d_in, config.n_latents)
        self.decoder = unit_table(config.n_latents, config.d_out)
        self.bias = nn.Parameter(torch.zeros(config.d_out))
        self.skip = nn.Parameter(torch.zeros(config.d_out, config.d_in)) if config.skip else None
        if config.skip:
            nn.init.zeros_(self.decoder)
        if config.unit_norm:
            self.normalise_units()

    @property
    def gate_linear(self) -> nn.Linear:
        """The encoder W_enc."""
        return self.encoder

    @property
    def unit_rows(self) -> nn.Parameter:
        """The decoder rows W_dec."""
        return self.decoder

    def encode(self, x: Float[Tensor, "*batch d_in"], k: int | None = None) -> Codes:
        """Latent activations of x: k columns, descending."""
        return self.edit_codes(select_units(x, self.encoder, self.config, k))

    def finish(
        self, combined: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"] | None
    ) -> Float[Tensor, "*batch d_out"]:
        """W_decᵀ a + b (+ S x); x is needed where there is a skip.

        Raises:
            UserError: x is missing and the layer has a skip.
        """
        y = combined + self.bias
        if self.skip is None:
            return y
        if x is None:
            raise UserError("got codes alone; a skip transcoder also needs x: decode(codes, x)")
        return y + x @ self.skip.T
