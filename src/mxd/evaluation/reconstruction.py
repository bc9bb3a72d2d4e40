"""How close a layer comes to the MLP, and how it uses its units: sums over tokens."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mxd.evaluation.documents import DocumentSums
from mxd.layers import Codes, Layer, MxD, SparseLayer


class Usage(NamedTuple):
    """How a layer uses its units."""

    l0: float
    dead_fraction: float
    usage_entropy: float
    max_expert_frequency: float
    experts_above_10pct: int
    top_expert_share: float


class ReconstructionTotals:
    """Streamed sums for one layer; everything is summed in float64."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        d_out, units = layer.config.d_out, layer.config.n_units
        self._tokens = self._ratios = self._known = 0.0
        self._ratios_without_bos = self._known_without_bos = 0.0
        self._static_ratios = 0.0
        self._error = self._squared = 0.0
        self._sum = torch.zeros(d_out, dtype=torch.float64)
        self._modulation = torch.zeros(d_out, dtype=torch.float64)
        self._modulation_squared = 0.0
        self._fired = torch.zeros(units, dtype=torch.float64)
        self._mass = torch.zeros(units, dtype=torch.float64)
        self._norms = torch.zeros(0, dtype=torch.float64)
        if isinstance(layer, SparseLayer):
            rows = layer.unit_rows.detach()
            self._norms = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64).cpu()
        self._static = layer.statistics.get("mean_modulation")
        self.by_document = DocumentSums()

    @torch.no_grad()
    def add(
        self,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        is_bos: Bool[Tensor, "tokens"],
        documents: Int[Tensor, "tokens"],
    ) -> Float[Tensor, "tokens d_out"]:
        """Add tokens.

        Args:
            x: what the layer is fed, (tokens, d_in).
            y: what the MLP gave, (tokens, d_out).
            is_bos: which tokens are BOS.
            documents: which document each token comes from.

        Returns:
            The layer's output ŷ, (tokens, d_out).
        """
        prediction, static, codes = self._predict(x)
        target, squared = y.double(), y.double().square().sum(-1)
        errors = (prediction.double() - target).square().sum(-1)
        known = squared > 0
        ratios = errors[known] / squared[known]
        self._tokens += len(y)
        self._ratios += float(ratios.sum())
        self.by_document.add(ratios, documents[known])
        self._known += int(known.sum())
        self._ratios_without_bos += float(ratios[~is_bos[known]].sum())
        self._known_without_bos += int((known & ~is_bos).sum())
        self._error += float(errors.sum())
        self._squared += float(squared.sum())
        self._sum += target.sum(0).cpu()
        if static is not None:
            off = (static.double() - target).square().sum(-1)
            self._static_ratios += float((off[known] / squared[known]).sum())
        if codes is not None:
            self._count(codes)
        return prediction

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor | None, Codes | None]:
        layer = self.layer
        if isinstance(layer, MxD):
            codes, shared = layer.encode(x), layer.dense_branch(x)
            modulation = layer.modulation(codes)
            self._modulation += modulation.double().sum(0).cpu()
            self._modulation_squared += float(modulation.double().square().sum())
            frozen = None
            if self._static is not None:
                frozen = self._static.to(shared) * shared + layer.bias
            return modulation * shared + layer.bias, frozen, codes
        if isinstance(layer, SparseLayer):
            codes = layer.encode(x)
            return layer.decode(codes, x), None, codes
        return layer(x), None, None

    def _count(self, codes: Codes) -> None:
        units, values = codes.indices.reshape(-1).cpu(), codes.values.double().reshape(-1).cpu()
        self._fired.index_add_(0, units, (values > 0).double())
        self._mass.index_add_(0, units, values * self._norms[units])

    @property
    def zero_tokens(self) -> int:
        """Tokens with y = 0, which NMSE leaves out."""
        return int(self._tokens - self._known)

    @property
    def nmse(self) -> float:
        """Mean of ‖ŷ − y‖² / ‖y‖²."""
        return _ratio(self._ratios, self._known)

    @property
    def nmse_without_bos(self) -> float:
        """The same without BOS tokens."""
        return _ratio(self._ratios_without_bos, self._known_without_bos)

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained."""
        variance = self._squared - float(self._sum.square().sum()) / max(1.0, self._tokens)
        return _ratio(self._error, variance)

    @property
    def static_nmse(self) -> float | None:
        """NMSE with the modulation frozen at its mean; None without a modulation."""
        return None if self._static is None else _ratio(self._static_ratios, self._known)

    @property
    def modulation_share(self) -> float | None:
        """E‖m − E m‖² / E‖m‖²; None without a modulation."""
        if not isinstance(self.layer, MxD):
            return None
        mean_squared = float((self._modulation / self._tokens).square().sum())
        return 1 - _ratio(mean_squared, self._modulation_squared / self._tokens)

    def usage(self) -> Usage | None:
        """How the units are used; None where there are none."""
        units = len(self._fired)
        if not units:
            return None
        frequency = self._fired / self._tokens
        most = float(frequency.max())
        top = self._mass[frequency == most].max()  # of equally frequent ones, the heaviest
        return Usage(
            l0=float(self._fired.sum()) / self._tokens,
            dead_fraction=float((self._fired == 0).double().mean()),
            usage_entropy=normalised_entropy(self._fired),
            max_expert_frequency=most,
            experts_above_10pct=int((frequency > 0.1).sum()),
            top_expert_share=_ratio(float(top), float(self._mass.sum())),
        )


def normalised_entropy(counts: Float[Tensor, "units"]) -> float:
    """Entropy of the counts as shares, over log N; 0 for a single unit."""
    if len(counts) < 2 or counts.sum() == 0:
        return 0.0
    shares = counts / counts.sum()
    return float(-torch.special.xlogy(shares, shares).sum()) / math.log(len(counts))


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
