"""A layer on several ranks computes what it computes in one process."""

from typing import Any

import pytest
import torch
from tests.training.distributed import _expert_checks
from tests.training.distributed._examples import example
from tests.training.distributed.ranks import assert_done, run_ranks

from mxd.errors import UserError
from mxd.kernels import chosen, gate
from mxd.layers import Edit, edited
from mxd.training.distributed import ExpertParallel, Split
from mxd.training.distributed.experts import shares_of_largest

CASES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "mxd": ("mxd", 10, 3, {}),
    "glu": ("mxd-glu", 9, 3, {}),
    "k-beyond-a-rank": ("mxd", 9, 7, {}),
    "k-is-n": ("transcoder", 5, 5, {}),
    "one-unit-a-rank": ("transcoder", 4, 2, {}),
    "shared": ("mxd-shared", 9, 4, {}),
    "shared-fill-a-rank": ("mxd", 5, 4, {"shared_experts": 3}),
    "other-k": ("mxd-shared", 11, 4, {"random_k": True, "drawn": 6}),
    "transcoder": ("transcoder", 11, 3, {}),
    "skip-transcoder": ("skip-transcoder", 11, 3, {}),
    "autoencoder": ("topk-autoencoder", 11, 3, {}),
    "mlp-transcoder": ("mlp-transcoder-glu", 10, 3, {}),
    "l1": ("transcoder", 10, 3, {"sparsity": "l1"}),
    "l1-shared": ("mxd", 5, 4, {"sparsity": "l1", "shared_experts": 3}),
}


@pytest.mark.parametrize("ranks", [2, 4])
def test_output_and_gradients_are_those_of_one_process(ranks: int) -> None:
    assert_done(run_ranks(_expert_checks.experts_agree, ranks, CASES))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "check",
    [
        _expert_checks.tied_units,
        _expert_checks.numbers_that_are_none,
        _expert_checks.exchanges_stay_narrow,
    ],
    ids=lambda check: check.__name__,
)
def test_experts(check, ranks: int) -> None:
    assert_done(run_ranks(check, ranks))


@pytest.mark.parametrize(
    ("ranks", "layouts"),
    [(2, ["data=2", "experts=2"]), (4, ["data=2,experts=2", "experts=4", "data=4"])],
)
def test_steps_are_those_of_one_process(ranks: int, layouts: list[str]) -> None:
    assert_done(run_ranks(_expert_checks.steps_agree, ranks, layouts))


def test_layer_is_cut_and_put_together() -> None:
    kinds = ["mxd-glu", "skip-transcoder", "mlp-transcoder"]
    assert_done(run_ranks(_expert_checks.layers_come_together, 4, kinds))


def test_alone_it_is_the_layer() -> None:
    layer = example("mxd-shared", units=9, k=4)
    x, tokens = torch.randn(6, 5, dtype=torch.float64), Split((6,), 0)
    torch.testing.assert_close(ExpertParallel(layer, Split((9,), 0), None)(x, tokens), layer(x))


def test_refuses_what_it_cannot_train() -> None:
    layer, units = example("mxd-shared", units=9, k=4), Split((5, 4), 0)
    x, tokens = torch.zeros(2, 5, dtype=torch.float64), Split((2,), 0)
    with pytest.raises(UserError, match="got k=2, expected at least 3"):
        ExpertParallel(layer, Split((9,), 0), None).encode(x, tokens, 2)
    with pytest.raises(UserError, match="got a layer with edits"):
        ExpertParallel(edited(layer, Edit(7, scale=0, where=2)), Split((9,), 0), None)
    with pytest.raises(UserError, match="got 9 units, expected 5 of 9 on rank 0"):
        ExpertParallel(layer, units, None)


def test_shares_of_the_largest_count_ties_from_the_first_rank() -> None:
    candidates = torch.tensor([[[5.0, 2, 2]], [[2.0, 1, 0]], [[torch.nan, 2, 0]]])
    expected = {1: [0, 0, 1], 2: [1, 0, 1], 3: [2, 0, 1], 5: [3, 1, 1], 6: [3, 1, 2], 9: [3, 3, 3]}
    for k, shares in expected.items():
        assert shares_of_largest(candidates, k).flatten().tolist() == shares, k
    assert shares_of_largest(candidates[:, :0], 2).shape == (3, 0)


def test_chosen_has_the_gradients_of_the_gate() -> None:
    leaves = [
        torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((6, 5), (9, 5), (9,))
    ]
    weigh = torch.randn(6, 3, dtype=torch.float64)
    values, indices = gate(*leaves, 3)
    expected = torch.autograd.grad((values * weigh).sum(), leaves)
    again = chosen(*leaves, values.detach(), indices)
    assert torch.equal(again, values)
    got = torch.autograd.grad((again * weigh).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
