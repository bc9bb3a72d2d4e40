"""Rows, gradients and agreement between processes."""

import pytest
import torch
from tests.training.distributed import _row_checks
from tests.training.distributed.ranks import assert_done, run_ranks

from mxd.training.distributed import (
    Split,
    all_ranks,
    any_rank,
    check_equal,
    gather_rows,
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
    assert any_rank(True, None)
    assert not all_ranks(False, None)
    assert torch.equal(total(rows, None), rows)
    check_equal({"rows": rows}, None)
    parameter = torch.nn.Parameter(rows)
    parameter.grad = torch.ones(3, 2)
    sum_gradients([parameter], None, weight=0.5)
    assert torch.equal(parameter.grad, torch.full((3, 2), 0.5))
