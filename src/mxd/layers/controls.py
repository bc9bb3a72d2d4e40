"""The controls without which an equal K says little: a dense MLP, a transcoder beside one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.layers._parts import hidden_units, linear, select_units, unit_table
from mxd.layers.activations import activation
from mxd.layers.base import Layer, SparseLayer
from mxd.layers.codes import Codes
from mxd.layers.config import DenseBranchConfig, SparseConfig


@dataclass(kw_only=True)
class DenseMLPConfig(DenseBranchConfig):
    """Configuration of a `DenseMLP`."""

    architecture: ClassVar[str] = "dense_mlp"


class DenseMLP(Layer):
    """A dense MLP of the original width, trained like the sparse layers: the ceiling.

    ŷ = Dᵀz + b. Parameters: `encoder.weight`, `encoder.bias`, for GLU `encoder_up.*`, `decoder`
    (H, O), zero at the start as in an MxD, `bias` (O).
    """

    config: DenseMLPConfig
    config_class = DenseMLPConfig

    def __init__(self, config: DenseMLPConfig) -> None:
        super().__init__(config)
        self.encoder = linear(config.d_in, config.d_hidden)
        self.encoder_up = linear(config.d_in, config.d_hidden) if config.glu else None
        self.decoder = nn.Parameter(torch.zeros(config.d_hidden, config.d_out))
        self.bias = nn.Parameter(torch.zeros(config.d_out))
        self.activation = activation(config.activation)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Dᵀz + b."""
        z = hidden_units(x, self.encoder, self.encoder_up, self.activation)
        return z @ self.decoder + self.bias


@dataclass(kw_only=True)
class MLPTranscoderConfig(SparseConfig, DenseBranchConfig):
    """Configuration of an `MLPTranscoder`."""

    n_latents: int
    """N, how many latents there are to choose from."""

    architecture: ClassVar[str] = "mlp_transcoder"

    @property
    def n_units(self) -> int:
        """Number of latents."""
        return self.n_latents


class MLPTranscoder(SparseLayer):
    """A transcoder beside an always-on MLP: ŷ = W_decᵀ a + Dᵀz + b.

    The same parameters and always-on work as an MxD of as many experts; the sparse part adds where
    the MxD's multiplies. Parameters: those of the transcoder (`encoder.*`, `decoder` W_dec,
    `bias`) and those of the MLP (`mlp_encoder.*`, `mlp_encoder_up.*`, `mlp_decoder` D).
    """

    config: MLPTranscoderConfig
    config_class = MLPTranscoderConfig

    def __init__(self, config: MLPTranscoderConfig) -> None:
        if config.unit_norm:
            raise UserError(
                "got unit_norm for an mlp_transcoder, expected it off: its decoder rows start at "
                "zero and have no direction to keep"
            )
        super().__init__(config)
        self.encoder = linear(config.d_in, config.n_latents)
        self.decoder = unit_table(config.n_latents, config.d_out)
        nn.init.zeros_(self.decoder)  # as in a skip transcoder: the dense path learns first
        self.mlp_encoder = linear(config.d_in, config.d_hidden)
        self.mlp_encoder_up = linear(config.d_in, config.d_hidden) if config.glu else None
        self.mlp_decoder = nn.Parameter(torch.zeros(config.d_hidden, config.d_out))
        self.bias = nn.Parameter(torch.zeros(config.d_out))
        self.activation = activation(config.activation)

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
        """W_decᵀ a + Dᵀz + b; x is needed for the dense MLP.

        Raises:
            UserError: x is missing.
        """
        if x is None:
            raise UserError("got codes alone; an mlp_transcoder also needs x: decode(codes, x)")
        z = hidden_units(x, self.mlp_encoder, self.mlp_encoder_up, self.activation)
        return combined + z @ self.mlp_decoder + self.bias
