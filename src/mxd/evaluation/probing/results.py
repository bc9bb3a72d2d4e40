"""What probing measures: plain dataclasses whose fields are the keys of `mxd probe --json`."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from mxd.evaluation.probing.resampling import Interval, interval


@dataclass(kw_only=True)
class ClassFigures:
    """The best single unit for one class against the rest."""

    unit: int | None
    """The unit; None where no unit of the layer fires."""
    f1: float
    """F1 on the test part."""
    f1_ci: Interval
    """Its 95 % interval over resampled test examples."""
    balanced_accuracy: float
    """Mean recall of the class and of the rest, on the test part."""
    support: int
    """Test examples of the class."""


@dataclass(kw_only=True)
class ProbedLayer:
    """How well single units and small groups of units of a layer tell classes apart."""

    name: str
    """Name of the student."""
    site: str
    """Name of the module that it replaces."""
    architecture: str
    """Its architecture."""
    k: int
    """Configured K."""
    width: int
    """Gated units: experts or latents."""
    seed: int | None
    """Seed of its training."""
    live_units: int
    """Units that fire somewhere in the training part; the others are never candidates."""
    candidates: int
    """Single units that were tried for each class."""
    classes: dict[str, ClassFigures]
    """The best single unit for each class, chosen by `selection`."""
    f1_mean: float
    """Mean of the classes' F1."""
    f1_mean_ci: Interval
    """Its 95 % interval."""
    f1_by_k: dict[str, float]
    """Mean F1 of one regression on the k units with the largest absolute difference of means."""
    dense_f1: float
    """Mean F1 of a regression on the whole input of the MLP."""
    dense_output_f1: float
    """The same on the whole output of the MLP."""
    neuron_f1: float
    """Mean F1 of the best single dimension of the MLP's input, searched for like units."""
    random_f1: float
    """Mean F1 of the best of as many random live units as there are candidates."""
    random_unit_f1: float
    """Mean F1 of these random units, none of them chosen."""
    equal_width: int | None
    """Live units that every layer of the site is cut down to for the next figure."""
    f1_equal_candidates: float | None
    """`f1_mean` when every layer of the site is searched among equally many random live units."""
    paper_classes: dict[str, ClassFigures] | None = None
    """With both selections: the units that are best on the held-out part itself."""
    paper_f1_mean: float | None = None
    """Mean of their F1, which is too high: the test part chose them."""
    paper_f1_mean_ci: Interval | None = None
    """Its 95 % interval."""

    f1_resampled: Any = None
    """Mean F1 in each resample (resamples,), for paired differences; not part of the document."""


@dataclass(kw_only=True)
class Difference:
    """One layer's mean F1 minus another's, on the same resamples."""

    site: str
    """Name of the site."""
    ours: str
    """An MxD."""
    theirs: str
    """A layer of another architecture with the same K and seed."""
    f1_mean_difference: float
    """Above zero: ours is better."""
    ci: Interval
    """Its 95 % interval, paired by test example."""


@dataclass(kw_only=True)
class Probe:
    """A probing task done; `to_dict` is the document that `mxd probe --json` writes."""

    task: str
    """Name of the task."""
    source: str
    """File or data set."""
    level: str
    """`text` or `token`."""
    selection: str
    """`train`, `paper` or `both`."""
    seed: int
    """Seed of splits, random units and resamples."""
    train_texts: int
    """Texts or sentences for training."""
    test_texts: int
    """Texts or sentences for testing."""
    skipped_texts: int
    """Texts with fewer than 5 tokens, sentences without a word that counts."""
    skipped_words: int
    """Tagged words without a token or behind the tokens that are read."""
    classes_left_out: dict[str, int]
    """Tags with too few examples to probe for, and their training examples."""
    layers: list[ProbedLayer] = field(default_factory=list)
    """One entry for each layer."""

    @property
    def differences(self) -> list[Difference]:
        """Each MxD against each other architecture of the same site, K and seed."""
        return [
            _difference(ours, theirs)
            for ours in self.layers
            for theirs in self.layers
            if ours.architecture == "mxd" != theirs.architecture
            and (ours.site, ours.k, ours.seed) == (theirs.site, theirs.k, theirs.seed)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        plain = asdict(
            replace(self, layers=[replace(each, f1_resampled=None) for each in self.layers])
        )
        for layer in plain["layers"]:
            del layer["f1_resampled"]
        return {"kind": "probe", **plain, "differences": [asdict(d) for d in self.differences]}


def _difference(ours: ProbedLayer, theirs: ProbedLayer) -> Difference:
    return Difference(
        site=ours.site,
        ours=ours.name,
        theirs=theirs.name,
        f1_mean_difference=ours.f1_mean - theirs.f1_mean,
        ci=interval(np.asarray(ours.f1_resampled) - np.asarray(theirs.f1_resampled)),
    )
