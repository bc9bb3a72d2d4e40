import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from mxd.errors import UserError
from mxd.report import draw_activity, draw_frontier, draw_training
from mxd.report._canvas import spread
from mxd.report._series import series

DRAW = (draw_frontier, draw_activity)


def _check(paths: list[Path]) -> None:
    png, svg = paths
    content = png.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert png.suffix == ".png"
    assert len(content) > 10_000
    assert width > 600
    assert height > 300
    root = ET.parse(svg).getroot()
    assert root.tag.endswith("svg")
    assert len(list(root.iter())) > 100


def _rows(*students: str, site: str = "h.3") -> list[dict[str, Any]]:
    return [
        {"step": i, "tokens": i * 51_200, "site": site, "student": student, "nmse": 1 / (i + 1)}
        for i in range(1, 20)
        for student in students
    ]


@pytest.mark.parametrize("draw", DRAW)
def test_drawing_writes_png_and_svg(draw, evaluation, tmp_path):
    paths = draw(evaluation, tmp_path / "new" / "a.b", model="small-gpt2", tokens_trained=2_000_000)
    assert [path.name for path in paths] == ["a.b.png", "a.b.svg"]
    _check(paths)


@pytest.mark.parametrize("draw", DRAW)
def test_drawing_is_the_same_each_time_and_leaves_no_global_state(draw, evaluation, tmp_path):
    before = dict(mpl.rcParams)
    first = draw(evaluation, tmp_path / "first")[1].read_bytes()
    second = draw(evaluation, tmp_path / "second")[1].read_bytes()
    assert first == second
    assert b"dc:date" not in first
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", DRAW)
def test_drawing_takes_one_student_several_seeds_and_several_sites(
    draw, make_layer, make_evaluation, tmp_path
):
    _check(draw(make_evaluation(make_layer("mxd")), tmp_path / "one"))
    _check(draw(make_evaluation(make_layer("dense_mlp", k=None)), tmp_path / "control"))
    many = [
        make_layer(architecture, site=site, seed=seed, k=k)
        for architecture in ("mxd", "transcoder")
        for site in ("h.3", "h.5")
        for seed in (1, 2)
        for k in (4, 16)
    ]
    _check(draw(make_evaluation(*many), tmp_path / "many"))


@pytest.mark.parametrize("draw", DRAW)
def test_drawing_leaves_out_missing_figures_and_negative_increases_fit(
    draw, make_layer, make_evaluation, tmp_path
):
    layers = [
        make_layer("mxd", nmse=None, delta_cross_entropy=None, active_parameters=None),
        make_layer("transcoder", delta_cross_entropy=-0.01, delta_cross_entropy_se=None),
        make_layer("a_new_one", k=4),
    ]
    _check(draw(make_evaluation(*layers), tmp_path / "some"))
    _check(draw(make_evaluation(layers[0]), tmp_path / "none"))


@pytest.mark.parametrize("draw", DRAW)
def test_drawing_takes_names_as_text_not_markup(draw, make_layer, make_evaluation, tmp_path):
    hostile = "<script>$\\frac{$ _^" + "x" * 200 + "\n\x00"
    layers = [make_layer("mxd", site=hostile), make_layer("mxd", site="b")]
    _check(draw(make_evaluation(*layers), tmp_path / "hostile", model=hostile))


@pytest.mark.parametrize("draw", DRAW)
def test_drawing_nothing_says_what_is_missing(draw, make_evaluation, tmp_path):
    with pytest.raises(UserError, match="without layers, expected at least one"):
        draw(make_evaluation(), tmp_path / "x")


def test_drawing_into_a_file_says_so(evaluation, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"x\.png cannot be written"):
        draw_frontier(evaluation, tmp_path / "file" / "x")


def test_training_draws_each_student_and_site(tmp_path):
    rows = _rows("mxd-k8-w5372-s42", "dense_mlp-k0-w0-s42", "transcoder-k8-w6144-s1-lr0.001")
    rows += _rows("mxd-k8-w5372-s42", site="h.5")
    first = draw_training(rows, tmp_path / "first", facts=["small-gpt2"])
    _check(first)
    assert draw_training(rows, tmp_path / "b")[1].read_bytes() != first[1].read_bytes()
    again = draw_training(rows, tmp_path / "again", facts=["small-gpt2"])
    assert again[1].read_bytes() == first[1].read_bytes()


def test_training_draws_a_single_row_and_skips_what_has_no_error(tmp_path):
    rows = _rows("mxd-k8-w5372-s42")[:1]
    _check(draw_training([*rows, {"site": "h.3", "student": "x", "nmse": None}], tmp_path / "one"))
    with pytest.raises(UserError, match="no training metrics"):
        draw_training([{"tokens": 3, "nmse": 0.0}], tmp_path / "x")


def test_series_line_is_the_mean_over_seeds_of_each_seed_s_best(make_layer):
    layers = [
        make_layer(seed=1, nmse=0.3, name="a"),
        make_layer(seed=1, nmse=0.2, name="a-lr0.01"),
        make_layer(seed=2, nmse=0.4, name="b"),
        make_layer(seed=2, k=16, nmse=0.1),
    ]
    (found,) = series(layers, "k", "nmse")
    assert [(point.k, point.y) for point in found.line] == [(8, pytest.approx(0.3)), (16, 0.1)]
    assert sorted(point.y for point in found.single) == [0.2, 0.3, 0.4]


def test_spread_moves_labels_apart_and_no_further():
    heights = [0.1, 0.1, 0.1]
    assert spread([0.2, 0.5, 0.8], heights) == pytest.approx([0.2, 0.5, 0.8])
    assert spread([], []) == []
    assert spread([0.5, 0.5, 0.5], heights) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([0.98, 0.99, 1.0], heights) == pytest.approx([0.8, 0.9, 1.0])
    assert spread([0.0, 0.0, 0.9], [0.1, 0.3, 0.1]) == pytest.approx([0.0, 0.2, 0.9])
