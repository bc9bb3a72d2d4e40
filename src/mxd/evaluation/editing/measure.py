"""What sets of units do to the model on a text when they are scaled, all in one pass over it."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mxd.data import Contexts
from mxd.evaluation.documents import DocumentSums, Estimate
from mxd.evaluation.editing.bench import Bench, Pass, codes_of, output_of, rows_of
from mxd.layers import Codes, SparseLayer

Units = tuple[int, ...]


class Rises:
    """Sums of the losses with a layer in place, and of their rises by each change."""

    def __init__(self, sets: Iterable[Units], ablations: Iterable[str]) -> None:
        self.tokens = 0
        self.base, self.layer = DocumentSums(), DocumentSums()
        self.by_set = {units: DocumentSums() for units in sets}
        self.by_ablation = {name: DocumentSums() for name in ablations}

    @property
    def gap(self) -> float:
        """Cross-entropy with the unedited layer above the base model's."""
        return self.layer.mean - self.base.mean

    def of(self, units: Units) -> Estimate:
        """Rise by scaling these units."""
        return self.by_set[units].estimate()


@torch.no_grad()
def rises(
    bench: Bench,
    layer: SparseLayer,
    contexts: Sequence[Contexts],
    sets: Iterable[Units],
    *,
    scale: float,
    ablations: Mapping[str, Float[Tensor, "d_out"]],
    on_batch: Callable[[], None] | None = None,
) -> Rises:
    """Measure every set of units, and every constant output, against the unedited layer.

    Contexts in which no unit of a set is active are not run again: there the rise is exactly 0.

    Args:
        bench: the model and the site.
        layer: the layer.
        contexts: the text.
        sets: units that are scaled together.
        scale: factor of their contributions.
        ablations: constant outputs by name.
        on_batch: called after each batch.
    """
    totals = Rises(sets, ablations)
    for seen in bench.passes(contexts):
        codes = codes_of(layer, seen)
        plain = bench.losses(seen, output_of(layer, seen, codes))
        totals.tokens += seen.tokens.numel()
        totals.base.add(seen.counted(seen.losses), seen.documents)
        totals.layer.add(seen.counted(plain), seen.documents)
        for units, sums in totals.by_set.items():
            rise = _rise(bench, layer, seen, codes, plain, units, scale)
            sums.add(seen.counted(rise), seen.documents)
        for name, constant in ablations.items():
            output = constant.to(seen.y).expand_as(seen.y)
            sums = totals.by_ablation[name]
            sums.add(seen.counted(bench.losses(seen, output) - plain), seen.documents)
        if on_batch is not None:
            on_batch()
    return totals


def _rise(
    bench: Bench,
    layer: SparseLayer,
    seen: Pass,
    codes: Codes,
    plain: Tensor,
    units: Units,
    scale: float,
) -> Tensor:
    """How each loss rises when the units' coefficients are scaled, (contexts, length − 1)."""
    chosen = torch.zeros(layer.config.n_units, dtype=torch.bool, device=codes.indices.device)
    chosen[list(units)] = True
    hit = chosen[codes.indices] & (codes.values != 0)
    rows = hit.flatten(1).any(1)
    rise = torch.zeros_like(plain)
    if bool(rows.any()):
        values = torch.where(hit, codes.values * scale, codes.values)[rows]
        part = rows_of(seen, rows.to(seen.tokens.device))
        changed = Codes(values, codes.indices[rows], codes.n_units)
        after = bench.losses(part, output_of(layer, part, changed))
        rise[rows.cpu()] = after - plain[rows.cpu()]
    return rise
