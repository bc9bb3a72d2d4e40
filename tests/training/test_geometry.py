"""The smallest singular value of an MxD's experts, and its way into the metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training._parts import SITE, make_student, rows_of, same_weights, tiny_recipe

from mxd.layers import MxD
from mxd.training import fit, smallest_singular_value
from mxd.training.geometry import GeometryTracker


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_numpy(decoder: torch.Tensor, rows: torch.Tensor) -> float:
    D, C = decoder.detach().double().numpy(), rows.detach().double().numpy()
    return float(min(np.linalg.svd(D * c, compute_uv=False).min() for c in C))


@pytest.mark.parametrize("shape", [(12, 5), (5, 5), (5, 12)])
def test_smallest_singular_value_is_that_of_the_built_experts(shape: tuple[int, int]) -> None:
    decoder, rows = random(*shape, seed=0), random(3, shape[1], seed=1)
    found = smallest_singular_value(decoder, rows)
    assert found > 0.01
    np.testing.assert_allclose(found, by_numpy(decoder, rows), rtol=1e-10)


def test_smallest_singular_value_of_a_known_case() -> None:
    decoder = torch.eye(4, 3)
    rows = torch.tensor([[1.0, -2.0, 3.0], [5.0, 0.25, 6.0]])
    assert smallest_singular_value(decoder, rows) == pytest.approx(0.25, rel=1e-12)


def test_collapsed_expert_gives_zero() -> None:
    rows = random(2, 5, seed=1)
    rows[1, 3] = 0
    assert smallest_singular_value(random(9, 5, seed=0), rows) == pytest.approx(0, abs=1e-15)


def test_weights_that_are_not_finite_give_nan() -> None:
    rows = random(2, 5, seed=1)
    rows[0, 0] = float("inf")
    assert np.isnan(smallest_singular_value(random(9, 5, seed=0), rows))


def test_metrics_hold_the_value_of_the_sampled_experts(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = tiny_recipe("mxd", "transcoder", track_experts=3)
    run = fit(model, tokenizer, recipe, documents=documents, out=out)
    layer = run.layers[SITE]["mxd-k3-w24-s42"]
    assert isinstance(layer, MxD)
    sample = torch.randperm(24, generator=torch.Generator().manual_seed(42))[:3]
    rows = rows_of(out)
    of_mxd = [r["smallest_singular_value"] for r in rows if r["student"].startswith("mxd")]
    of_other = [r["smallest_singular_value"] for r in rows if not r["student"].startswith("mxd")]
    assert len(of_mxd) == 3
    assert of_mxd[-1] == pytest.approx(by_numpy(layer.decoder, layer.modulators[sample]), rel=1e-6)
    assert all(value > 0 for value in of_mxd)
    assert of_other == [None, None, None]


def test_following_changes_nothing_else(model, tokenizer, documents, tmp_path: Path) -> None:
    rows, runs = {}, {}
    for experts in (0, 24):
        out = tmp_path / str(experts)
        recipe = tiny_recipe("mxd", "transcoder", track_experts=experts, log_every=1)
        runs[experts] = fit(model, tokenizer, recipe, documents=documents, out=out)
        rows[experts] = rows_of(out)
    assert {row.pop("smallest_singular_value") for row in rows[0]} == {None}
    values = [row.pop("smallest_singular_value") for row in rows[24]]
    assert None not in values[::2]  # the MxD's
    assert rows[0] == rows[24]
    for name, layer in runs[0].layers[SITE].items():
        assert same_weights(layer, runs[24].layers[SITE][name])


def test_tracker_looks_about_twenty_times_and_at_the_end() -> None:
    tracker = GeometryTracker([make_student()], 4, steps=10_010)
    looks = [s for s in range(50, 10_010, 50) if tracker.due(s, last=False)]
    assert 18 <= len(looks) <= 20
    assert tracker.due(10_010, last=True)
    assert tracker.look(make_student("transcoder")) is None
    assert not GeometryTracker([make_student()], 0, steps=10).due(10, last=True)
    assert not GeometryTracker([make_student("transcoder")], 4, steps=10).due(10, last=True)
