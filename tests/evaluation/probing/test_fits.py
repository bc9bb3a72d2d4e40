import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler

from mxd.evaluation.probing.fits import (
    OneAgainstRest,
    class_differences,
    confusion,
    fit_and_predict,
    fit_column,
    top,
)
from mxd.evaluation.probing.resampling import Resamples, interval

ROWS, UNITS = 300, 12


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Dense values, mostly zero, some related to the class below."""
    rng = np.random.default_rng(0)
    found = rng.random((ROWS, UNITS)) * (rng.random((ROWS, UNITS)) < 0.4)
    found[:90, 2] += 0.4
    found[:, 5] = 0
    return found


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (np.arange(ROWS) < 90) ^ (rng.random(ROWS) < 0.1)


@pytest.mark.parametrize("unit", [0, 2, 5])
@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["sparse", "no zeros"])
def test_one_column_is_fitted_as_by_scikit_learn(values, truth, unit, shift):
    column = values[:, unit] + shift
    expected = LogisticRegression(
        class_weight="balanced", solver="newton-cholesky", max_iter=200, tol=1e-10
    ).fit(column[:, None], truth)
    stored = column != 0
    slope, intercept = fit_column(column[stored], truth[stored], truth)
    assert slope == pytest.approx(expected.coef_[0, 0], abs=1e-3)
    assert intercept == pytest.approx(expected.intercept_[0], abs=1e-3)


def test_differences_are_those_of_dense_means(values, truth):
    classes = np.stack([truth, ~truth], 1)
    found = class_differences(sparse.csc_matrix(values), classes)
    expected = values[truth].mean(0) - values[~truth].mean(0)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(found[:, 1], -expected, atol=1e-12)


def test_top_takes_live_units_only_largest_first():
    scores = np.array([1.0, 3.0, 3.0, 9.0, -1.0])
    live = np.array([True, True, True, False, True])
    assert top(scores, live, 3).tolist() == [1, 2, 0]
    assert top(scores, live, 99).tolist() == [1, 2, 0, 4]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.random((2, 80)) < 0.3
    counts = confusion(truth, predicted)
    assert counts.f1 == pytest.approx(f1_score(truth, predicted))
    assert counts.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_scores_of_nothing_predicted():
    truth = np.array([True, False, False])
    assert confusion(truth, np.zeros(3, dtype=bool)).f1 == 0
    assert confusion(truth, np.zeros(3, dtype=bool)).balanced_accuracy == 0.5


def _probe(values: np.ndarray, truth: np.ndarray) -> OneAgainstRest:
    train = np.arange(ROWS) % 5 != 0
    parts = [sparse.csc_matrix(values[rows]) for rows in (train, ~train)]
    return OneAgainstRest(parts[0], parts[1], truth[train], truth[~train])


def test_selection_is_by_the_part_it_names(values, truth):
    probe = _probe(values, truth)
    train = np.arange(ROWS) % 5 != 0
    scores = []
    for unit in range(UNITS):
        model = LogisticRegression(
            class_weight="balanced", solver="newton-cholesky", max_iter=200
        ).fit(values[train][:, [unit]], truth[train])
        scores.append(
            [
                f1_score(truth[part], model.predict(values[part][:, [unit]]))
                for part in (train, ~train)
            ]
        )
    for column, selection in enumerate(("train", "paper")):
        best = probe.best(range(UNITS), selection)
        assert best.unit == int(np.argmax([each[column] for each in scores]))
        assert best.train_f1 == pytest.approx(scores[best.unit][0])
        assert best.test_f1 == pytest.approx(scores[best.unit][1])


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("width", [UNITS, 60])
def test_several_columns_are_fitted_as_by_scikit_learn(truth, center, width):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(ROWS, width)) + 0.8 * truth[:, None] * (np.arange(width) % 7 == 0)
    train = np.arange(ROWS) % 5 != 0
    scaled = StandardScaler(with_mean=center).fit(values[train])
    expected = LogisticRegression(class_weight="balanced", max_iter=1000).fit(
        scaled.transform(values[train]), truth[train]
    )
    form = np.asarray if center else sparse.csc_matrix
    found = fit_and_predict(form(values[train]), form(values[~train]), truth[train], center=center)
    agreement = (found == expected.predict(scaled.transform(values[~train]))).mean()
    assert agreement > 0.98


def test_bootstrap_is_that_of_a_plain_loop():
    rng = np.random.default_rng(4)
    truth, predicted = rng.random((2, 60)) < 0.4
    names = [f"d{i}" for i in rng.integers(0, 9, size=60)]
    found = Resamples(names, 40, seed=7).f1(truth, predicted)
    clusters = sorted(set(names))
    times = np.random.default_rng(7).multinomial(
        len(clusters), [1 / len(clusters)] * len(clusters), size=40
    )
    for drawn, value in zip(times, found, strict=True):
        repeated = np.concatenate(
            [
                np.flatnonzero(np.array(names) == name)
                for name, count in zip(clusters, drawn, strict=True)
                for _ in range(count)
            ]
        )
        expected = f1_score(truth[repeated], predicted[repeated], zero_division=0)
        assert value == pytest.approx(expected)
    assert interval(found) == pytest.approx(tuple(np.percentile(found, [2.5, 97.5])))
