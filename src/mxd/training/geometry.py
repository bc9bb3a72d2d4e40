"""The geometry of an MxD's experts while it is trained: how near they come to losing rank."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mxd.layers import MxD
from mxd.layers.spectrum import decoder_core, expert_singular_values
from mxd.training.student import Student

LOOKS = 20
"""How often in a run the singular values are computed, about."""


class GeometryTracker:
    """Follows the smallest singular value of a sample of each MxD's experts.

    It only reads the layers, and draws its samples from generators of its own.

    Args:
        students: all students of the run.
        experts: experts of each MxD to follow; 0 follows none.
        steps: steps of the whole run.
    """

    def __init__(self, students: list[Student], experts: int, steps: int) -> None:
        self._interval = max(1, steps // LOOKS)
        self.next_look = 0
        """The first step at which to look again."""
        self._samples = {
            id(student): _sample(student.layer.config.n_experts, experts, student.seed)
            for student in students
            if experts and isinstance(student.layer, MxD)
        }

    def due(self, step: int, *, last: bool) -> bool:
        """Whether to look at this step; a twentieth of the run must lie between two looks."""
        if not (last or step >= self.next_look):
            return False
        self.next_look = step + self._interval
        return bool(self._samples)

    def look(self, student: Student) -> float | None:
        """The smallest singular value over those of the student's sample that are here.

        None for another architecture, and where none is here.
        """
        sample = self._samples.get(id(student))
        if sample is None or not isinstance(student.layer, MxD):
            return None
        layer = student.layer
        if student.companions.units is not None:
            start, stop = student.companions.units.start, student.companions.units.stop
            sample = sample[(sample >= start) & (sample < stop)] - start
            if not len(sample):
                return None
        return smallest_singular_value(
            layer.decoder, layer.modulators[sample.to(layer.bias.device)]
        )


def _sample(n_experts: int, wanted: int, seed: int) -> Int64[Tensor, " sample"]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_experts, generator=generator)[:wanted]


@torch.no_grad()
def smallest_singular_value(
    decoder: Float[Tensor, "d_hidden d_out"], modulators: Float[Tensor, "experts d_out"]
) -> float:
    """min over experts n of σ_min(W_n), W_n = D diag(c_n) (paper, section 3.2: rank of an expert).

    No W_n is made (`mxd.layers.spectrum`); computed in float64.

    Args:
        decoder: D, (H, O).
        modulators: rows c_n of the experts looked at.

    Returns:
        The smallest of the min(H, O) singular values of any of them; NaN where a weight is not
        finite.
    """
    if not (decoder.isfinite().all() and modulators.isfinite().all()):
        return float("nan")
    return float(expert_singular_values(decoder_core(decoder), modulators).min())
