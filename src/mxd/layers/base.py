"""What every layer can do: forward, save, load, and say what it costs."""

from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn

from mxd.kernels import combine
from mxd.layers._provenance import Provenance
from mxd.layers.codes import Codes
from mxd.layers.config import LayerConfig, SparseConfig
from mxd.layers.edits import with_edits

Self = TypeVar("Self", bound="Layer")
_ROWS = 4096
"""Rows of units that are normalised at one time, so that temporaries do not grow with N."""


class Cost(NamedTuple):
    """What a layer costs, in parameters and floating-point operations."""

    parameters: int
    """All parameters."""
    active_parameters: int
    """Parameters that touch one token's output: the dense ones, and the rows of K units."""
    flops_per_token: int
    """Operations of the forward pass for a token, two for each multiply-add of a matrix product."""


class Layer(nn.Module, PyTorchModelHubMixin):
    """A layer that stands in for an MLP: (..., d_in) -> (..., d_out)."""

    config_class: ClassVar[type[LayerConfig]]
    reads: ClassVar[str] = "input"
    """What it is fed: the MLP's `input`, or its `output` (an autoencoder)."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.config = config
        self.provenance = Provenance()
        self.statistics: dict[str, Tensor] = {}
        """Means over training tokens that the evaluation refers to; saved beside the weights."""

    bias: nn.Parameter

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The layer's output for inputs x, (..., d_in) -> (..., d_out)."""
        raise TypeError(f"{type(self).__name__} is abstract; load a layer with mxd.load")

    @torch.no_grad()
    def start_bias_at(self, mean: Float[Tensor, "d_out"]) -> None:
        """Start the output bias at the mean output over training tokens."""
        self.bias.copy_(mean)

    def cost(self) -> Cost:
        """Parameters, active parameters and operations for a token."""
        total = sum(p.numel() for p in self.parameters())
        return Cost(total, total, 2 * _matrix_elements(self))

    def _save_pretrained(self, save_directory: Path) -> None:
        from mxd.layers import storage

        storage.write(self, save_directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Self],
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Load a layer from a folder or from the hub, in evaluation mode.

        Raises:
            UserError: nothing there, another format or architecture, damaged or mis-shaped tensors.
        """
        from mxd.layers import storage

        return storage.load(
            pretrained_model_name_or_path,
            cls,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )

    def generate_model_card(self, *_args: Any, **_kwargs: Any) -> ModelCard:
        """The model card, with whatever figures have been measured."""
        from mxd.layers import card

        return ModelCard(card.render(self))


class SparseLayer(Layer):
    """A layer with gated units, of which K are active for each token."""

    config: SparseConfig

    def encode(self, x: Float[Tensor, "*batch d_in"], k: int | None = None) -> Codes:
        """The active units and their coefficients; `k` overrides the configured K."""
        raise TypeError(f"{type(self).__name__} is abstract; load a layer with mxd.load")

    def decode(
        self, codes: Codes, x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """The output for given codes, which may have more than k entries (steering adds one).

        Raises:
            UserError: x is missing where the layer has a dense branch or a skip.
        """
        return self.finish(self.combined(codes), x)

    def combined(self, codes: Codes) -> Float[Tensor, "*batch d_out"]:
        """What the active units give together, the weighted sum of their rows, (..., d_out)."""
        return combine(codes.values, codes.indices, self.unit_rows)

    def finish(
        self, combined: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"] | None
    ) -> Float[Tensor, "*batch d_out"]:
        """ŷ from what `combined` gave and x: the dense part of `decode`.

        Raises:
            UserError: x is missing where the layer has a dense branch or a skip.
        """
        raise TypeError(f"{type(self).__name__} is abstract; load a layer with mxd.load")

    def forward(
        self, x: Float[Tensor, "*batch d_in"], k: int | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """ŷ for inputs x, (..., d_in) -> (..., d_out); `k` overrides the configured K."""
        return self.decode(self.encode(x, k), x)

    def edit_codes(self, codes: Codes) -> Codes:
        """The codes after the configuration's edits: the last step of every `encode`."""
        return with_edits(codes, self.config.edits) if self.config.edits else codes

    @property
    def gate_linear(self) -> nn.Linear:
        """The linear map whose rows decide which units are active, (N, d_in)."""
        raise TypeError(f"{type(self).__name__} is abstract; load a layer with mxd.load")

    def fed(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """What `gate_linear` reads of an input."""
        return x

    @property
    def unit_rows(self) -> nn.Parameter:
        """What each unit contributes with: modulators c_n or decoder rows, (N, d_out)."""
        raise TypeError(f"{type(self).__name__} is abstract; load a layer with mxd.load")

    def contribution(
        self, codes: Codes, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What the given codes add to the output, without bias, skip or dense terms."""
        return self.contributed(self.combined(codes), x)

    def contributed(
        self, combined: Float[Tensor, "*batch d_out"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """`contribution` from what `combined` gave."""
        return combined

    def training_k(self, generator: torch.Generator | None = None) -> int:
        """K for one training step: the configured one, or with `random_k` a draw from K ± K/2."""
        k = self.config.k
        if not self.config.random_k:
            return k
        half = k // 2
        low, high = max(self.config.least_k, k - half), min(self.config.n_units, k + half)
        return int(torch.randint(low, high + 1, (), generator=generator))

    @torch.no_grad()
    def normalise_units(self) -> None:
        """Put every unit's row back to unit norm; a row of zeros stays as it is."""
        if self.unit_rows.is_meta:  # shapes alone, as many rows as a file claims
            return
        for rows in self.unit_rows.split(_ROWS):
            norms = rows.norm(dim=-1, keepdim=True)
            rows.div_(torch.where(norms > 0, norms, torch.ones_like(norms)))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take from every row's gradient the part along the row, so that a step turns it only."""
        if self.unit_rows.grad is None:
            return
        parts = zip(self.unit_rows.split(_ROWS), self.unit_rows.grad.split(_ROWS), strict=True)
        for rows, grad in parts:
            along = torch.linalg.vecdot(grad, rows).unsqueeze(-1)
            squared = torch.linalg.vecdot(rows, rows).unsqueeze(-1)
            share = along / torch.where(squared > 0, squared, torch.ones_like(squared))
            grad.addcmul_(rows, share, value=-1)

    def cost(self) -> Cost:
        """Parameters, active parameters and operations for a token at the configured K."""
        config = self.config
        per_unit = config.d_in + 1 + config.d_out
        total = sum(p.numel() for p in self.parameters())
        unit_elements = config.n_units * config.d_out
        products = _matrix_elements(self) - unit_elements + config.k * config.d_out
        return Cost(total, total - (config.n_units - config.k) * per_unit, 2 * products)


def _matrix_elements(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.dim() == 2)
