"""Logistic regressions of one class against the rest, on one unit or on many."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

Selection = Literal["train", "paper"]
_ITERATIONS = 200
_NARROW = 32
"""Up to this many columns Newton's method is the faster solver, as for one."""


class Confusion(NamedTuple):
    """How a prediction of one class went."""

    true_positives: float
    false_positives: float
    false_negatives: float
    true_negatives: float

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 0 where that is 0 / 0."""
        wrong = self.false_positives + self.false_negatives
        total = 2 * self.true_positives + wrong
        return float(2 * self.true_positives / total) if total else 0.0

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the recalls of the class and of the rest."""
        positives = self.true_positives + self.false_negatives
        negatives = self.true_negatives + self.false_positives
        recalls = [self.true_positives / positives] if positives else []
        recalls += [self.true_negatives / negatives] if negatives else []
        return float(np.mean(recalls))


def confusion(truth: Bool[np.ndarray, " rows"], predicted: Bool[np.ndarray, " rows"]) -> Confusion:
    """Counts of right and wrong predictions."""
    hits = int((truth & predicted).sum())
    called, positives = int(predicted.sum()), int(truth.sum())
    return Confusion(hits, called - hits, positives - hits, len(truth) - called - positives + hits)


@dataclass(frozen=True)
class UnitFit:
    """A logistic regression on one unit, which is a threshold on it."""

    unit: int | None
    """The unit; None where no unit fires, and the class is never predicted."""
    slope: float = 0.0
    """Weight of its coefficient."""
    intercept: float = -1.0
    """Log-odds where it is silent."""
    train_f1: float = 0.0
    """F1 on the training part."""
    test_f1: float = 0.0
    """F1 on the test part."""

    def predict(self, columns: Any) -> Bool[np.ndarray, " rows"]:
        """Whether each row of a matrix (rows, units), sparse by column, is of the class."""
        predicted = np.full(columns.shape[0], self.intercept > 0)
        if self.unit is not None:
            rows, values = _column(columns, self.unit)
            predicted[rows] = self.slope * values + self.intercept > 0
        return predicted


class OneAgainstRest:
    """Probes of one class; each unit is fitted once, however often it is tried.

    Args:
        train: coefficients of the training rows, sparse by column (rows, units).
        test: those of the test rows.
        is_train: whether each training row is of the class.
        is_test: whether each test row is.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        is_train: Bool[np.ndarray, " train"],
        is_test: Bool[np.ndarray, " test"],
    ) -> None:
        self.train, self.test, self.is_train, self.is_test = train, test, is_train, is_test
        self._fits: dict[int, UnitFit] = {}

    def fit(self, unit: int) -> UnitFit:
        """The regression on one unit (L2, balanced classes, Newton, 200 iterations)."""
        if unit not in self._fits:
            rows, values = _column(self.train, unit)
            slope, intercept = fit_column(values, self.is_train[rows], self.is_train)
            found = UnitFit(unit, slope, intercept)
            self._fits[unit] = UnitFit(
                unit,
                slope,
                intercept,
                confusion(self.is_train, found.predict(self.train)).f1,
                confusion(self.is_test, found.predict(self.test)).f1,
            )
        return self._fits[unit]

    def best(
        self, units: Sequence[int] | Int64[np.ndarray, " some"], selection: Selection
    ) -> UnitFit:
        """The unit with the best F1 on the training part, or on the held-out one (`paper`)."""
        fits = [self.fit(int(unit)) for unit in units]
        if not fits:
            return UnitFit(None)
        of = (lambda fit: fit.train_f1) if selection == "train" else (lambda fit: fit.test_f1)
        return max(fits, key=of)  # the first of equals: the largest difference of means

    def together(self, units: Sequence[int] | Int64[np.ndarray, " some"]) -> float:
        """F1 on the test part of one regression on several units, each scaled to unit variance."""
        if not len(units):
            return 0.0
        predicted = fit_and_predict(
            self.train[:, units], self.test[:, units], self.is_train, center=False
        )
        return confusion(self.is_test, predicted).f1


def class_differences(
    train: Any, is_class: Bool[np.ndarray, "rows classes"]
) -> Float64[np.ndarray, "units classes"]:
    """Mean of each unit over the rows of a class minus its mean over the rest."""
    inside = is_class.astype(np.float64)
    count = inside.sum(0)
    sums = np.asarray(train.T @ inside)
    total = np.asarray(train.sum(axis=0, dtype=np.float64)).reshape(-1, 1)
    means: Float64[np.ndarray, "units classes"] = sums / count - (total - sums) / (
        len(inside) - count
    )
    return means


def top(scores: Float64[np.ndarray, " units"], live: Bool[np.ndarray, " units"], k: int) -> Any:
    """The k live units with the largest scores, largest first, the lower number first of equals."""
    units = np.flatnonzero(live)
    return units[np.argsort(-scores[units], kind="stable")[:k]]


def fit_column(
    values: Float64[np.ndarray, " stored"],
    is_class: Bool[np.ndarray, " stored"],
    all_rows: Bool[np.ndarray, " rows"],
) -> tuple[float, float]:
    """Slope and intercept of a logistic regression on one sparse column.

    The silent rows enter as two weighted ones, which changes nothing but the time it takes.

    Args:
        values: the entries that are stored.
        is_class: whether the row of each is of the class.
        all_rows: the same for all rows.
    """
    rows, positives = len(all_rows), int(all_rows.sum())
    balance = {True: rows / (2 * positives), False: rows / (2 * (rows - positives))}
    silent = {True: positives - int(is_class.sum())}
    silent[False] = rows - len(values) - silent[True]
    extra = [each for each in (True, False) if silent[each]]
    x = np.concatenate([values, np.zeros(len(extra))]).astype(np.float64)
    target = np.concatenate([is_class, np.array(extra, dtype=bool)])
    weights = np.where(target, balance[True], balance[False])
    weights[len(values) :] *= [silent[each] for each in extra]
    model = LogisticRegression(solver="newton-cholesky", max_iter=_ITERATIONS)
    with _quiet():
        model.fit(x[:, None], target, sample_weight=weights)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def fit_and_predict(
    train: Any, test: Any, is_train: Bool[np.ndarray, " train"], *, center: bool
) -> Bool[np.ndarray, " test"]:
    """One regression on several columns, scaled to unit variance on the training part.

    Args:
        train: training rows, sparse or dense.
        test: test rows.
        is_train: whether each training row is of the class.
        center: take the mean off too (dense columns).
    """
    wide = train.shape[1] > _NARROW
    if sparse.issparse(train):
        train, test = train.astype(np.float64).tocsr(), test.astype(np.float64).tocsr()
    scaler = StandardScaler(with_mean=center)
    model = LogisticRegression(
        solver="lbfgs" if wide else "newton-cholesky",
        class_weight="balanced",
        max_iter=_ITERATIONS,
    )
    scaled = scaler.fit_transform(train)
    if sparse.issparse(scaled) and not wide:
        scaled = scaled.toarray()
    with _quiet():
        model.fit(scaled, is_train)
    predicted: Bool[np.ndarray, " test"] = model.predict(scaler.transform(test)).astype(bool)
    return predicted


def _column(columns: Any, unit: int) -> tuple[Any, Any]:
    part = slice(columns.indptr[unit], columns.indptr[unit + 1])
    return columns.indices[part], columns.data[part].astype(np.float64)


class _quiet(warnings.catch_warnings):  # noqa: N801
    """No word about fits that did not converge: the protocol stops at 200 iterations."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)
