"""What each rank does with rows, gradients and questions; the oracle is computed by each alone."""

import pytest
import torch
import torch.distributed as dist
from tests.training.distributed._examples import generator, near, splits_of
from torch import nn

from mxd.errors import UserError
from mxd.training.distributed import (
    Split,
    World,
    agreed_split,
    all_ranks,
    check_equal,
    gather_rows,
    gradient_norm,
    sum_gradients,
    sum_rows,
    total,
)


def rows_travel(here: World) -> None:
    """Rows of unequal numbers come together in the ranks' order; gradients go back to their own."""
    group = dist.group.WORLD
    for counts in splits_of(here.size):
        split = agreed_split(counts[here.rank], group)
        assert split == Split(counts, here.rank)
        everything = torch.arange(split.total * 3, dtype=torch.float64).reshape(-1, 3)
        weights = torch.randn(here.size, *everything.shape, generator=generator(5)).double()
        own = everything[split.own].clone().requires_grad_()
        gathered = gather_rows(own, split, group)
        assert torch.equal(gathered, everything)
        (gathered * weights[here.rank]).sum().backward()
        assert own.grad is not None
        near(own.grad, weights.sum(0)[split.own], "gather's gradient")

        partial = weights[here.rank].clone().requires_grad_()
        summed = sum_rows(partial, split, group)
        near(summed, weights.sum(0)[split.own], "sum of rows")
        (summed * everything[split.own]).sum().backward()
        assert partial.grad is not None
        near(partial.grad, everything, "sum's gradient")
        for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool):
            plain = (everything % 7 > 2).to(dtype)
            assert torch.equal(gather_rows(plain[split.own], split, group), plain), dtype


def gradients_are_summed(here: World) -> None:
    """In buckets of any size, with a missing gradient, in two dtypes; then their common norm."""
    shapes = [(3, 4), (7,), (), (5, 2)]
    for bucket_bytes in (1, 24, 100, 1 << 20):
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        parameters.append(nn.Parameter(torch.zeros(6, dtype=torch.float64)))
        parameters.append(nn.Parameter(torch.zeros(2), requires_grad=False))
        everyone = [
            [torch.randn(p.shape, generator=generator(10 * r + i), dtype=p.dtype)
             for i, p in enumerate(parameters)]
            for r in range(here.size)
        ]  # fmt: skip
        for i, p in enumerate(parameters[:-1]):
            p.grad = everyone[here.rank][i].clone()
        parameters[3].grad = parameters[3].grad.T.contiguous().T  # type: ignore[union-attr]
        if here.rank == 1:
            parameters[1].grad = None  # counts as zero
        everyone[1][1].zero_()
        sum_gradients(parameters, dist.group.WORLD, weight=here.rank + 1, bucket_bytes=bucket_bytes)
        for i, p in enumerate(parameters[:-1]):
            expected = sum((r + 1) * grads[i] for r, grads in enumerate(everyone))
            torch.testing.assert_close(p.grad, expected)
        assert parameters[-1].grad is None
        check_equal({str(i): p.grad for i, p in enumerate(parameters[:-1])}, dist.group.WORLD)

        sharded = nn.Parameter(torch.zeros(4))
        sharded.grad = torch.full((4,), float(here.rank + 1))
        norm = gradient_norm(parameters[:2], [sharded], dist.group.WORLD)
        squares = sum(float(p.grad.square().sum()) for p in parameters[:2])
        squares += sum(4 * (r + 1) ** 2 for r in range(here.size))
        torch.testing.assert_close(float(norm), squares**0.5, rtol=1e-5, atol=0)


def ranks_agree(here: World) -> None:
    """All, totals; and equality, with the name of what differs on every rank."""
    group, last = dist.group.WORLD, here.size - 1
    assert all_ranks(True, group)
    assert not all_ranks(here.rank != last, group)
    own = torch.tensor([here.rank, 1])
    assert total(own, group).tolist() == [sum(range(here.size)), here.size]
    assert own.tolist() == [here.rank, 1]

    same = {"bias": torch.ones(3), "empty": torch.ones(0), "scalar": torch.tensor(2.0)}
    check_equal(same, group)
    check_equal({}, group)
    for change in (torch.tensor([1.0, 1.0, 1 + 2e-7]), torch.ones(3, 1), torch.ones(3).double()):
        mine = {**same, "bias": change if here.rank == last else same["bias"]}
        with pytest.raises(UserError, match=rf"ranks {last} have other weights .*\(bias\)"):
            check_equal(mine, group, what="weights")
    mine = {**same, "more": torch.ones(1)} if here.rank == last else same
    with pytest.raises(UserError, match=f"ranks {last} have parameters of other names"):
        check_equal(mine, group)
