"""What a steering study found, ready for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mxd.evaluation.judging import Verdict
from mxd.evaluation.steering.strength import Strength

MEAN = "mean"
"""Name under which the mean over several judges stands."""


@dataclass(frozen=True)
class UnitScores:
    """A set of samples of one unit, and what the judges said of it."""

    unit: int | None
    """The unit; None for samples without steering."""
    maximum: float | None
    """Its largest coefficient on held-out text."""
    added: float | None
    """What was added to its coefficient."""
    verdicts: Mapping[str, Verdict]
    """Verdicts by the judge's name."""
    distinct_1: float
    """Distinct tokens over all tokens of the set (Li et al. 2016)."""
    distinct_2: float
    """Distinct pairs of neighbouring tokens over all pairs; low where samples are copies."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "unit": self.unit,
            "maximum": self.maximum,
            "added": self.added,
            "judges": {name: verdict.to_dict() for name, verdict in self.verdicts.items()},
            "distinct_1": self.distinct_1,
            "distinct_2": self.distinct_2,
        }


@dataclass(frozen=True)
class Scores:
    """Scores of one judge over units."""

    sets: int
    """Sets with scores; one for each unit."""
    failed: int
    """Sets without."""
    concept: float | None
    """Mean of the shared concept, 0 to 1; None where nothing was scored."""
    concept_se: float | None
    """Its standard error over units; None for fewer than two."""
    fluency: float | None
    """Mean fluency, 0 to 1."""
    fluency_se: float | None
    """Its standard error over units."""
    covariance: list[list[float]] | None
    """Covariance of (concept, fluency) over units, 2 x 2, with n − 1."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]], failed: int) -> "Scores":
        """From the pairs (concept, fluency) of each unit."""
        if not pairs:
            return cls(0, failed, None, None, None, None, None)
        table = np.asarray(pairs, dtype=np.float64)
        mean, count = table.mean(0), len(table)
        if count < 2:
            return cls(count, failed, float(mean[0]), None, float(mean[1]), None, None)
        covariance = np.cov(table, rowvar=False)
        se = np.sqrt(covariance.diagonal() / count)
        return cls(
            count,
            failed,
            float(mean[0]),
            float(se[0]),
            float(mean[1]),
            float(se[1]),
            covariance.tolist(),
        )


@dataclass(frozen=True)
class Swept:
    """Sets of samples of many units under one kind of steering."""

    per_unit: list[UnitScores]
    """Each set."""

    def scores(self) -> dict[str, Scores]:
        """Scores by judge; with several judges also under `mean`, over those that answered."""
        names = list(dict.fromkeys(name for unit in self.per_unit for name in unit.verdicts))
        verdicts = {name: [unit.verdicts[name] for unit in self.per_unit] for name in names}
        found = {name: _scores(of) for name, of in verdicts.items()}
        if len(names) > 1:
            found[MEAN] = _scores([_mean(unit.verdicts) for unit in self.per_unit])
        return found

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        count = max(1, len(self.per_unit))
        return {
            "judges": {name: asdict(scores) for name, scores in self.scores().items()},
            "distinct_1": sum(unit.distinct_1 for unit in self.per_unit) / count,
            "distinct_2": sum(unit.distinct_2 for unit in self.per_unit) / count,
            "per_unit": [unit.to_dict() for unit in self.per_unit],
        }


@dataclass(frozen=True)
class SteeredExample:
    """Some samples, to be read."""

    unit: int | None
    """The unit; None without steering."""
    strength: str | None
    """As on the command line, such as 4x."""
    added: float | None
    """What was added to its coefficient."""
    samples: list[str]
    """The first few samples."""


@dataclass(frozen=True)
class LayerSteering:
    """What steering with the units of one layer does."""

    name: str
    """Student's name."""
    site: str
    """Site's name."""
    architecture: str
    """Architecture."""
    k: int
    """Active units for a token."""
    width: int
    """Number of units."""
    units: list[int]
    """Units steered with."""
    dead_skipped: int
    """Units passed over because they never fired on the held-out text."""
    dead_steered: list[int]
    """Units steered with that never fired; they have no multiples of a maximum."""
    unsteered: Swept
    """With the layer in place and nothing added; one set."""
    strengths: list[tuple[Strength, Swept, Swept | None]]
    """Each strength: the units, and random directions of the same norm in their stead."""
    examples: list[SteeredExample]
    """Samples to be read."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.name,
            "site": self.site,
            "architecture": self.architecture,
            "k": self.k,
            "width": self.width,
            "units": self.units,
            "dead_skipped": self.dead_skipped,
            "dead_steered": self.dead_steered,
            "unsteered": self.unsteered.to_dict(),
            "strengths": [
                {
                    "strength": strength.value,
                    "unit_of": strength.unit_of,
                    **own.to_dict(),
                    "random_direction": None if control is None else control.to_dict(),
                }
                for strength, own, control in self.strengths
            ],
            "examples": [asdict(example) for example in self.examples],
        }


@dataclass(frozen=True)
class SteeringStudy:
    """A steering study over layers, units and strengths."""

    prompt: str
    """Where every sample begins."""
    protocol: dict[str, Any]
    """How samples were taken and units chosen."""
    unsteered: Swept
    """The base model without any layer; one set."""
    unsteered_samples: list[str]
    """That set."""
    layers: list[LayerSteering]
    """Each layer."""
    judges: list[dict[str, Any]]
    """Each judge: name, what it was asked, and what that cost."""
    stopped: dict[str, str]
    """Judges that could not go on, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kind": "steering",
            "prompt": self.prompt,
            "protocol": self.protocol,
            "layers": [layer.to_dict() for layer in self.layers],
            "unsteered": {**self.unsteered.to_dict(), "samples": self.unsteered_samples},
            "judges": self.judges,
            "stopped": self.stopped,
        }


def distinct(rows: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams over all n-grams of a set of token rows, for n of 1 or 2; 0 for none."""
    grams = [gram for row in rows for gram in (row if n == 1 else pairwise(row))]
    return len(set(grams)) / len(grams) if grams else 0.0


def _scores(verdicts: Sequence[Verdict]) -> Scores:
    pairs = [
        (verdict.concept, verdict.fluency)
        for verdict in verdicts
        if verdict.concept is not None and verdict.fluency is not None
    ]
    return Scores.of(pairs, len(verdicts) - len(pairs))


def _mean(verdicts: Mapping[str, Verdict]) -> Verdict:
    """The mean verdict of the judges that gave one."""
    pairs = [
        (verdict.concept, verdict.fluency)
        for verdict in verdicts.values()
        if verdict.concept is not None and verdict.fluency is not None
    ]
    if not pairs:
        return Verdict(failure="no judge gave scores")
    concept, fluency = np.mean(pairs, axis=0)
    return Verdict(float(concept), float(fluency))
