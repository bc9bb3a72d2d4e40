"""Probe one layer: single units, groups of units, and what random ones would give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64
from scipy import sparse

from mxd.evaluation.probing.features import SiteFeatures
from mxd.evaluation.probing.fits import (
    OneAgainstRest,
    Selection,
    UnitFit,
    class_differences,
    confusion,
    fit_and_predict,
    top,
)
from mxd.evaluation.probing.resampling import Resamples, interval
from mxd.evaluation.probing.results import ClassFigures

GroupSize = int | Literal["all"]
_EQUAL_DRAWS = 3


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all layers of one task are probed with."""

    classes: Sequence[str]
    """Labels to probe for."""
    labels: Any
    """Label of each row (rows,)."""
    training: Bool[np.ndarray, " rows"]
    """Whether each row is for training."""
    resamples: Resamples
    """Resamples of the test rows."""
    candidates: int
    """Single units to try for each class."""
    group_sizes: Sequence[GroupSize]
    """The k of the regressions on several units."""
    selection: Selection
    """What chooses the best unit."""
    seed: int
    """Seed of random units."""

    def is_class(
        self, name: str, rows: Bool[np.ndarray, " rows"] | Int64[np.ndarray, " some"]
    ) -> Bool[np.ndarray, " some_rows"]:
        """Whether each of some rows is of a class."""
        found: Bool[np.ndarray, " some_rows"] = self.labels[rows] == name
        return found


class UnitProbes:
    """The probes of one layer's units, class by class.

    Args:
        values: coefficients, sparse or dense (rows, units).
        setting: the task; rows are those of `values`.
        rows: which of the task's rows these are; None for all.
        signed: look for units that are larger in the class (units have a sign, dimensions none).
    """

    def __init__(
        self,
        values: Any,
        setting: Setting,
        rows: Int64[np.ndarray, " some"] | None = None,
        *,
        signed: bool = True,
    ) -> None:
        rows = np.arange(len(setting.training)) if rows is None else rows
        train, test = (rows[setting.training[rows] == part] for part in (True, False))
        split = [sparse.csc_matrix(values[setting.training[rows] == p]) for p in (True, False)]
        self.setting = setting
        self.live: Bool[np.ndarray, " units"] = np.diff(split[0].indptr) > 0
        of_train = {name: setting.is_class(name, train) for name in setting.classes}
        self.by_class = {
            name: OneAgainstRest(split[0], split[1], of_train[name], setting.is_class(name, test))
            for name in setting.classes
        }
        differences = class_differences(split[0], np.stack(list(of_train.values()), 1))
        self._signed = dict(zip(setting.classes, differences.T, strict=True))
        self._scores = self._signed if signed else {n: abs(d) for n, d in self._signed.items()}

    def best(
        self,
        selection: Selection | None = None,
        among: Bool[np.ndarray, " units"] | None = None,
    ) -> dict[str, UnitFit]:
        """The best of the candidates for each class, out of all live units or some of them."""
        pool = self.live if among is None else among
        return {
            name: probe.best(
                top(self._scores[name], pool, self.setting.candidates),
                selection or self.setting.selection,
            )
            for name, probe in self.by_class.items()
        }

    def figures(self, fits: dict[str, UnitFit]) -> tuple[dict[str, ClassFigures], Any]:
        """The figures of one unit for each class, and the mean F1 in each resample."""
        found, resampled = {}, []
        for name, fit in fits.items():
            probe = self.by_class[name]
            predicted = fit.predict(probe.test)
            counts = confusion(probe.is_test, predicted)
            values = self.setting.resamples.f1(probe.is_test, predicted)
            resampled.append(values)
            found[name] = ClassFigures(
                unit=fit.unit,
                f1=counts.f1,
                f1_ci=interval(values),
                balanced_accuracy=counts.balanced_accuracy,
                support=int(probe.is_test.sum()),
            )
        return found, np.mean(resampled, axis=0)

    def by_group_size(self) -> dict[str, float]:
        """Mean F1 of one regression on the k units that differ most, for each k."""
        found = {}
        for size in self.setting.group_sizes:
            k = len(self.live) if size == "all" else size
            found[str(size)] = self._mean(
                lambda name, k=k: self.by_class[name].together(  # type: ignore[misc]
                    top(abs(self._signed[name]), self.live, k)
                )
            )
        return found

    def random(self) -> tuple[float, float]:
        """Mean F1 of the best of random live units, and of these units without a choice."""
        live = np.flatnonzero(self.live)
        rng = np.random.default_rng(self.setting.seed)
        units = rng.permutation(live)[: self.setting.candidates]
        of = self.setting.selection
        best = self._mean(lambda name: self.by_class[name].best(units, of).test_f1)
        fits = {name: [probe.fit(int(u)) for u in units] for name, probe in self.by_class.items()}
        plain = self._mean(lambda name: _mean_f1(fits[name]))
        return best, plain

    def equal_candidates(self, width: int) -> float:
        """Mean F1 when only `width` random live units may be searched, over three draws."""
        live = np.flatnonzero(self.live)
        rng = np.random.default_rng(self.setting.seed)
        draws = []
        for _ in range(1 if width >= len(live) else _EQUAL_DRAWS):
            among = np.zeros(len(self.live), dtype=bool)
            among[rng.permutation(live)[:width]] = True
            draws.append(_mean_f1(list(self.best(among=among).values())))
        return float(np.mean(draws))

    def _mean(self, of_class: Callable[[str], float]) -> float:
        return float(np.mean([of_class(name) for name in self.by_class]))


def dense_f1(values: Any, rows: Int64[np.ndarray, " some"], setting: Setting) -> float:
    """Mean F1 of a regression on all dimensions of dense values, standardised."""
    training = setting.training[rows]
    found = []
    for name in setting.classes:
        truth = setting.is_class(name, rows)
        predicted = fit_and_predict(
            values[training].astype(np.float64),
            values[~training].astype(np.float64),
            truth[training],
            center=True,
        )
        found.append(confusion(truth[~training], predicted).f1)
    return float(np.mean(found))


@dataclass(frozen=True)
class Baselines:
    """What the MLP's own values give at a site, whatever layer is probed there."""

    dense_f1: float
    """All dimensions of the input."""
    dense_output_f1: float
    """All dimensions of the output."""
    neuron_f1: float
    """The best single dimension of the input."""


def baselines(features: SiteFeatures, setting: Setting) -> Baselines:
    """Measure the dense baselines of a site."""
    rows = features.dense_rows
    neurons = UnitProbes(features.x.astype(np.float64), setting, rows, signed=False)
    return Baselines(
        dense_f1(features.x, rows, setting),
        dense_f1(features.y, rows, setting),
        _mean_f1(list(neurons.best().values())),
    )


def _mean_f1(fits: list[UnitFit]) -> float:
    return float(np.mean([fit.test_f1 for fit in fits])) if fits else 0.0
