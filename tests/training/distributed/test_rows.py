"""Rows, gradients and agreement between processes."""

import pytest
import torch
from tests.training.distributed import _row_checks
from tests.training.distributed.ranks import assert_done, run_ranks

from mxd.training.distributed import (
    Split,
    all_ranks,
    check_equal,
    gather_rows,
    gradient_norm,
    sum_gradients,
    sum_rows,
    total,
)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "check",
    [_row_checks.rows_travel, _row_checks.gradients_are_summed, _row_checks.ranks_agree],
    ids=lambda check: check.__name__,
)
def test_collectives(check, ranks: int) -> None:
    assert_done(run_ranks(check, ranks))


def test_a_process_alone_needs_no_group() -> None:
    split, rows = Split((3,), 0), torch.arange(6.0).reshape(3, 2)
    assert torch.equal(gather_rows(rows, split, None), rows)
    assert torch.equal(sum_rows(rows, split, None), rows)
    assert not all_ranks(False, None)
    assert torch.equal(total(rows, None), rows)
    check_equal({"rows": rows}, None)
    parameter = torch.nn.Parameter(rows)
    parameter.grad = torch.ones(3, 2)
    sum_gradients([parameter], None, weight=0.5)
    assert torch.equal(parameter.grad, torch.full((3, 2), 0.5))


@pytest.mark.parametrize(("replicated", "sharded"), [(1, 0), (0, 1), (1, 1), (0, 0)])
def test_a_norm_stays_where_the_gradients_are(replicated: int, sharded: int) -> None:
    """A part of it in host memory would make a GPU be waited for, at every step."""

    def on(device: str, count: int) -> list[torch.nn.Parameter]:
        parameter = torch.nn.Parameter(torch.zeros(4, device=device))
        parameter.grad = torch.full((4,), 1.5, device=device)
        return [parameter] * count

    norm = gradient_norm(on("meta", replicated), on("meta", sharded), None)
    assert norm.device.type == ("meta" if replicated + sharded else "cpu")
    found = float(gradient_norm(on("cpu", replicated), on("cpu", sharded), None))
    assert found == pytest.approx((9 * (replicated + sharded)) ** 0.5)
