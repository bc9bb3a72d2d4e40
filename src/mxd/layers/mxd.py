"""Mixture of Decoders: full-rank sparse experts, ŷ = (Cᵀa) ⊙ (Dᵀz) + b."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.layers._dense_weights import DenseWeights
from mxd.layers._parts import hidden_units, linear, select_units, unit_table
from mxd.layers.activations import activation
from mxd.layers.base import SparseLayer
from mxd.layers.codes import Codes
from mxd.layers.config import DenseBranchConfig, SparseConfig


@runtime_checkable
class _Site(Protocol):
    dense_weights: Callable[[], DenseWeights]


@dataclass(kw_only=True)
class MxDConfig(SparseConfig, DenseBranchConfig):
    """Configuration of an `MxD` layer."""

    n_experts: int
    """N, how many experts there are to choose from."""
    shared_experts: int = 0
    """How many of the N experts (the first ones) are always on, with coefficient 1; they count
    among the K. A shared expert can make a layer faithful and unspecialised: read `static_nmse`
    and `modulation_share` beside the error."""

    architecture: ClassVar[str] = "mxd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.shared_experts) is not int or not 0 <= self.shared_experts < self.k:
            raise UserError(
                f"got shared_experts={self.shared_experts!r} with k={self.k}, expected a whole "
                "number from 0 to k - 1 (shared experts count among the k)"
            )

    @property
    def n_units(self) -> int:
        """Number of experts."""
        return self.n_experts

    @property
    def least_k(self) -> int:
        """The smallest K that leaves an expert to choose beside the shared ones."""
        return self.shared_experts + 1


class MxD(SparseLayer):
    """Mixture of Decoders (Oldfield et al., NeurIPS 2025, section 3).

    ŷ = Σ_n a_n W_nᵀ z + b with W_n = D diag(c_n), computed as (Cᵀa) ⊙ (Dᵀz) + b, where
    z = φ(E x + e) (or its GLU form) and a = TopK_K(ReLU(G x + g)).

    Parameters: `encoder.weight` E (H, I), `encoder.bias`; GLU: `encoder_up.weight`,
    `encoder_up.bias`; `decoder` D (H, O), zero at the start; `gate.weight` G (N, I), `gate.bias`;
    `modulators` C (N, O); `bias` (O).
    """

    config: MxDConfig
    config_class = MxDConfig

    def __init__(self, config: MxDConfig) -> None:
        super().__init__(config)
        self.encoder = linear(config.d_in, config.d_hidden)
        self.encoder_up = linear(config.d_in, config.d_hidden) if config.glu else None
        self.decoder = nn.Parameter(torch.zeros(config.d_hidden, config.d_out))
        self.gate = linear(config.d_in, config.n_experts)
        self.modulators = unit_table(config.n_experts, config.d_out)
        self.bias = nn.Parameter(torch.zeros(config.d_out))
        self.activation = activation(config.activation)
        if config.unit_norm:
            self.normalise_units()

    @property
    def gate_linear(self) -> nn.Linear:
        """The gate G."""
        return self.gate

    @property
    def unit_rows(self) -> nn.Parameter:
        """The modulators C."""
        return self.modulators

    def encode(self, x: Float[Tensor, "*batch d_in"], k: int | None = None) -> Codes:
        """Expert coefficients of x: k columns, shared experts first, the rest descending."""
        shared = self.config.shared_experts
        codes = select_units(x, self.gate, self.config, k, skip=shared)
        if not shared:
            return self.edit_codes(codes)
        ones = codes.values.new_ones((*x.shape[:-1], shared))
        first = torch.arange(shared, device=x.device).expand(*x.shape[:-1], shared)
        both = Codes(
            torch.cat([ones, codes.values], -1),
            torch.cat([first, codes.indices], -1),
            codes.n_units,
        )
        return self.edit_codes(both)

    def dense_branch(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Dᵀz, what every expert shares, (..., d_out)."""
        return hidden_units(x, self.encoder, self.encoder_up, self.activation) @ self.decoder

    def modulation(self, codes: Codes) -> Float[Tensor, "*batch d_out"]:
        """M = Cᵀa, what the active experts multiply the dense branch with, (..., d_out)."""
        return self.combined(codes)

    def contributed(
        self, combined: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """(Cᵀa) ⊙ (Dᵀz)."""
        return combined * self.dense_branch(x)

    def finish(
        self, combined: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"] | None
    ) -> Float[Tensor, "*batch d_out"]:
        """M ⊙ (Dᵀz) + b; x is needed for the dense branch.

        Raises:
            UserError: x is missing.
        """
        if x is None:
            raise UserError(
                "got codes alone; an MxD also needs x for its dense branch: decode(codes, x)"
            )
        return combined * self.dense_branch(x) + self.bias

    def expert_weight(self, n: int) -> Float[Tensor, "d_hidden d_out"]:
        """W_n = D diag(c_n), the linear map of expert n from z to the output, (H, O).

        Raises:
            UserError: there is no expert n.
        """
        if not 0 <= n < self.config.n_experts:
            raise UserError(f"got expert {n}, expected 0 to {self.config.n_experts - 1}")
        return self.decoder * self.modulators[n]

    @classmethod
    @torch.no_grad()
    def from_mlp(cls, site: _Site | DenseWeights) -> "MxD":
        """An exact copy of a dense MLP: one always-on expert with c = 1 and a = 1.

        Args:
            site: an `MLPSite`, or the weights of a dense MLP.

        Raises:
            UserError: the site's weights or activation are unknown.
        """
        dense = site if isinstance(site, DenseWeights) else site.dense_weights()
        d_hidden, d_in = dense.encoder.shape
        config = MxDConfig(
            d_in=d_in,
            d_out=dense.decoder.shape[1],
            d_hidden=d_hidden,
            n_experts=1,
            k=1,
            activation=dense.activation,
            glu=dense.glu,
        )
        layer = cls(config).to(device=dense.encoder.device, dtype=dense.encoder.dtype)
        _copy(layer.encoder, dense.encoder, dense.encoder_bias)
        if layer.encoder_up is not None and dense.encoder_up is not None:
            _copy(layer.encoder_up, dense.encoder_up, dense.encoder_up_bias)
        layer.decoder.copy_(dense.decoder)
        layer.gate.weight.zero_()
        layer.gate.bias.fill_(1)
        layer.modulators.fill_(1)
        if dense.bias is not None:
            layer.bias.copy_(dense.bias)
        return layer.eval()


def _copy(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)


def mixture(
    a: Float[Tensor, "*batch n"],
    z: Float[Tensor, "*batch d_hidden"],
    C: Float[Tensor, "n d_out"],
    D: Float[Tensor, "d_hidden d_out"],
) -> Float[Tensor, "*batch d_out"]:
    """Σ_n a_n (D diag(c_n))ᵀ z = (Cᵀa) ⊙ (Dᵀz): the bare tensor contraction, for any real a.

    A dense MLP is N = 1 with c = 1 and a = 1; a GLU is N = O experts with C the identity, each
    keeping one output column, and a its linear factor (paper, section 3.1).
    """
    return (a @ C) * (z @ D)
