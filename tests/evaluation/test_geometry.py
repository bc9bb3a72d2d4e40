"""Ranks and likeness of units against explicit matrices in NumPy."""

import numpy as np
import pytest
import torch
from tests.evaluation._parts import random_layer

from mxd.errors import UserError
from mxd.evaluation import geometry
from mxd.evaluation.rank import effective_rank, expert_ranks
from mxd.evaluation.similarity import unit_similarity
from mxd.layers import MxD, MxDConfig

SHAPES = {"tall": (12, 7), "square": (7, 7), "wide": (5, 9)}


def mxd(h: int = 12, o: int = 7, n: int = 10, dtype: torch.dtype = torch.float64) -> MxD:
    layer = MxD(MxDConfig(d_in=4, d_out=o, d_hidden=h, n_experts=n, k=2, activation="relu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.decoder.copy_(torch.randn(h, o, generator=generator))
        layer.modulators.copy_(torch.randn(n, o, generator=generator))
    return layer.to(dtype).eval()


def experts_of(layer: MxD) -> np.ndarray:
    """All W_n, (N, H, O)."""
    D, C = layer.decoder.detach().double().numpy(), layer.modulators.detach().double().numpy()
    return np.stack([D @ np.diag(c) for c in C])


@pytest.mark.parametrize("shape", list(SHAPES))
def test_ranks_equal_numpy_s_of_the_explicit_experts(shape: str) -> None:
    layer = mxd(*SHAPES[shape])
    found = expert_ranks(layer, experts=None)
    W = experts_of(layer)
    values = np.linalg.svd(W, compute_uv=False)
    least = min(W.shape[1:])
    assert found is not None
    assert found.experts == list(range(10))
    np.testing.assert_allclose(found.smallest_singular_value, values[:, -1], rtol=1e-9)
    np.testing.assert_allclose(found.largest_singular_value, values[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.normalised_rank, np.linalg.matrix_rank(W) / least)
    shares = values / values.sum(1, keepdims=True)
    np.testing.assert_allclose(found.effective_rank, np.exp(-(shares * np.log(shares)).sum(1)))
    assert found.min_smallest_singular_value == min(found.smallest_singular_value)
    assert found.mean_effective_rank == pytest.approx(np.mean(found.effective_rank))
    assert (found.mean_normalised_rank, found.min_normalised_rank) == (1.0, 1.0)
    own = np.linalg.svd(layer.decoder.detach().numpy(), compute_uv=False)
    assert found.decoder_smallest_singular_value == pytest.approx(own[-1])
    assert found.decoder_largest_singular_value == pytest.approx(own[0])
    assert 0 < found.min_singular_value_bound <= values[:, -1].min()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_entry_lowers_the_rank_by_one(dtype: torch.dtype) -> None:
    layer = mxd(dtype=dtype)
    with torch.no_grad():
        layer.modulators[3, 2] = 0
    found = expert_ranks(layer, experts=None)
    assert found is not None
    assert [round(7 * rank) for rank in found.normalised_rank] == [7, 7, 7, 6, 7, 7, 7, 7, 7, 7]
    assert found.min_rank_bound == found.min_normalised_rank == pytest.approx(6 / 7)
    assert (found.modulators_with_zeros, found.zeroed_modulators) == (1, 0)
    assert found.min_singular_value_bound == 0


def test_zero_modulator_is_counted_among_all_though_not_drawn() -> None:
    layer = mxd()
    with torch.no_grad():
        layer.modulators[5] = 0
    found = expert_ranks(layer, experts=[0, 1])
    assert found is not None
    assert (found.zeroed_modulators, found.zeroed_examples) == (1, [5])
    assert (found.min_normalised_rank, found.min_rank_bound) == (1.0, 0.0)
    itself = expert_ranks(layer, experts=[5])
    assert itself is not None
    assert (itself.normalised_rank, itself.effective_rank) == ([0.0], [0.0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bound_holds_for_every_expert(dtype: torch.dtype) -> None:
    layer = mxd(n=40)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # entries of every size down to nothing, and a D that has lost rank
        sizes = 10 ** -(18 * torch.rand(40, 7, generator=generator).double())
        layer.modulators.mul_(sizes)
        layer.decoder[:, 6] = layer.decoder[:, 0]
    layer = layer.to(dtype)
    found = expert_ranks(layer, experts=None)
    assert found is not None
    assert found.min_normalised_rank <= found.min_rank_bound <= 6 / 7
    assert found.decoder_normalised_rank == pytest.approx(6 / 7)


def test_decoder_of_zeros_has_no_rank_and_no_expert_has() -> None:
    layer = mxd()
    with torch.no_grad():
        layer.decoder.zero_()
    found = expert_ranks(layer)
    assert found is not None
    assert (found.decoder_normalised_rank, found.min_rank_bound) == (0.0, 0.0)
    assert (found.mean_normalised_rank, found.zeroed_modulators) == (0.0, 0)


def test_draw_is_seeded_and_without_repetition_and_blocks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = mxd(n=50)
    first, again, other = (expert_ranks(layer, experts=9, seed=seed) for seed in (0, 0, 1))
    assert first is not None
    assert other is not None
    assert first == again
    assert len(set(first.experts)) == 9
    assert first.experts != other.experts
    monkeypatch.setattr("mxd.layers.spectrum._BLOCK_ELEMENTS", 1)
    alone = expert_ranks(layer, experts=9)
    assert alone is not None
    np.testing.assert_allclose(alone.effective_rank, first.effective_rank)


def test_effective_rank_of_known_spectra() -> None:
    spectra = torch.tensor([[2.0, 2.0, 2.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 3.0, 0.0]])
    assert effective_rank(spectra).tolist() == pytest.approx([3.0, 1.0, 0.0, 2.0])


def test_layer_that_diverged_has_no_ranks() -> None:
    layer = mxd()
    with torch.no_grad():
        layer.modulators[0, 0] = float("nan")
    found = geometry(layer)
    assert found.rank is None
    assert found.similarity is not None
    assert found.similarity.units == 9


@pytest.mark.parametrize("wrong", [[10], [-1], [], 0])
def test_expert_that_there_is_not_is_refused(wrong: list[int] | int) -> None:
    with pytest.raises(UserError, match="expected"):
        expert_ranks(mxd(), experts=wrong)


def test_weighted_similarity_is_the_frobenius_cosine_of_experts() -> None:
    layer = mxd()
    W = experts_of(layer).reshape(10, -1)
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    cosines = unit @ unit.T
    others = np.where(np.eye(10, dtype=bool), -np.inf, cosines)
    found = geometry(layer).weighted_similarity
    assert found is not None
    np.testing.assert_allclose(found.nearest_cosine.numpy(), others.max(1), rtol=1e-9)
    assert found.nearest_unit.tolist() == others.argmax(1).tolist()
    assert found.mean_cosine == pytest.approx(others[others > -np.inf].mean())
    document = found.to_dict()
    assert sum(document["nearest_cosine_counts"]) == 10
    assert document["max_nearest_cosine"] == pytest.approx(others.max())
    plain = geometry(layer).similarity
    assert plain is not None
    assert plain.mean_cosine != pytest.approx(found.mean_cosine)


def test_similarity_of_known_rows() -> None:
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    found = unit_similarity(rows)
    assert found is not None
    assert (found.units, found.nearest_of.tolist()) == (4, [0, 1, 2, 3])
    assert found.nearest_cosine.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert found.nearest_unit.tolist() == [1, 0, 0, 2]
    assert found.mean_cosine == pytest.approx((1 - 1 - 1) / 6)
    assert (found.twin_share, found.mean_nearest_cosine) == (0.5, 0.5)
    assert unit_similarity(rows[3:]) is None


def test_identical_units_have_twins_and_few_queries_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).repeat(30, 1)
    monkeypatch.setattr("mxd.evaluation.similarity._BLOCK_ELEMENTS", 64)  # two queries at a time
    found = unit_similarity(rows, queries=7)
    assert found is not None
    assert (found.units, len(set(found.nearest_of.tolist()))) == (30, 7)
    assert (found.twin_share, found.mean_cosine) == (1.0, pytest.approx(1.0))
    assert all(a != b for a, b in zip(found.nearest_of, found.nearest_unit, strict=True))


def test_dead_units_are_left_out() -> None:
    layer = mxd()
    live = torch.zeros(10, dtype=torch.bool)
    live[[2, 4, 9]] = True
    found = geometry(layer, experts=2, live=live)
    assert found.rank is not None
    assert found.similarity is not None
    assert set(found.rank.experts) <= {2, 4, 9}
    assert set(found.similarity.nearest_unit.tolist()) <= {2, 4, 9}
    assert geometry(layer, live=torch.zeros(10, dtype=torch.bool)).similarity is None


@pytest.mark.parametrize("architecture", ["transcoder", "topk_autoencoder", "mlp_transcoder"])
def test_units_without_matrices_have_likeness_alone(architecture: str) -> None:
    found = geometry(random_layer(architecture))
    assert (found.rank, found.weighted_similarity) == (None, None)
    assert found.similarity is not None
    assert found.similarity.units == 20
    assert found.to_dict()["rank"] is None


def test_ranks_can_be_left_out() -> None:
    found = geometry(mxd(), experts=0)
    assert found.rank is None
    assert found.weighted_similarity is not None
