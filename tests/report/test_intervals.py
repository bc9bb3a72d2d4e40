import csv

import numpy as np
import pytest
from scipy import stats

from mxd.report._intervals import DOCUMENTS, NONE, SEEDS, of_layers, over_seeds
from mxd.report._names import parse_name
from mxd.report.tables_csv import write_csv


@pytest.mark.parametrize("n", [2, 3, 7])
def test_interval_over_seeds_is_student_s_t(n):
    values = np.random.default_rng(n).normal(3, 0.5, n)
    found = over_seeds(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert found.kind == SEEDS
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_interval_of_one_seed_is_by_document():
    one = {"delta_cross_entropy": 0.03, "delta_cross_entropy_se": 0.001, "nmse": 0.2}
    assert of_layers([one], "delta_cross_entropy") == (0.03, pytest.approx(0.00196), 1, DOCUMENTS)
    assert of_layers([one], "nmse") == (0.2, None, 1, NONE)
    assert of_layers([one, {"nmse": None}], "l0") is None
    assert of_layers([one, {"nmse": float("nan")}, {"nmse": 0.4}], "nmse").mean == pytest.approx(
        0.3
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mxd-k32-w21490-s42", ("mxd", 32, 42, None, None)),
        ("dense_mlp-k0-w0-s1", ("dense_mlp", None, 1, None, None)),
        ("mxd-k8-w96-s1-lr0.001", ("mxd", 8, 1, "0.001", None)),
        ("mxd-k8-w96-s1-lr1e-05-relu-h2", ("mxd", 8, 1, "1e-05", "relu-h2")),
        ("mxd-k8-w96-s1-more-experts", ("mxd", 8, 1, None, "more-experts")),
        ("<b>\n", ("<b>\n", None, None, None, None)),
        ("mxd-k" + "9" * 5000 + "-w1-s1", ("mxd", 999999999, 1, None, None)),
    ],
)
def test_name_of_a_student_is_taken_apart(name, parts):
    assert parse_name(name) == parts


def test_csv_keeps_numbers_whole_and_disarms_text(tmp_path):
    record = {
        "=key": 1,
        "third": 1 / 3,
        "negative": -0.5,
        "big": 10**20,
        "none": None,
        "nan": float("nan"),
        "yes": True,
        "units": [1, 2],
        "formula": "=HYPERLINK(1)",
        "spaced": "  +1",
        "at": "@SUM(A1)",
        "minus": "-2+3",
        "quoted": "'=1",
        "lines": 'a\n"b",\x00\ud800',
        "plain": "mxd-k8",
    }
    path = write_csv(tmp_path / "new" / "t.csv", [record, {"plain": 2, "late": "x"}])
    keys, first, second = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    row = dict(zip(keys, first, strict=True))
    assert keys[0] == "'=key"
    assert float(row["third"]) == 1 / 3
    assert row["negative"] == "-0.5"
    assert row["big"] == "1" + 20 * "0"
    assert (row["none"], row["nan"], row["yes"], row["units"]) == ("", "", "true", "[1, 2]")
    for key in ("formula", "spaced", "at", "minus", "quoted"):
        assert row[key] == "'" + record[key]
    assert row["lines"] == 'a↵"b",␀?'
    assert row["plain"] == "mxd-k8"
    assert dict(zip(keys, second, strict=True))["late"] == "x"
