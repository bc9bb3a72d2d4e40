"""What each rank does while the bytes of a real step are counted, beside those of its plan."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.planning._parts import model

from mxd.layers import build
from mxd.planning import Division, Share, SiteShape, Training, plan_students
from mxd.training import LayerRecipe, OptimizerRecipe, Schedule, Student
from mxd.training.distributed import Groups, Layout, Processes, World, counted_traffic
from mxd.training.team import Wishes

TOKENS, WIDTH, K = 32, 24, 3
SITE = SiteShape("b.0.mlp", 0, 6, 5, 8, "gelu", False)
FIGURES = 100
"""Bytes of losses, counts and norms that ranks sum in a step; a plan leaves them out."""


def steps_send_what_is_planned(here: World, layouts: list[str], architectures: list[str]) -> None:
    for text in layouts:
        for architecture in architectures:
            layout = Layout.parse(text, here.size)
            planned = _planned(layout, architecture)
            _same(here, layout, architecture, planned, f"{architecture}, {layout}")


def _same(here: World, layout: Layout, architecture: str, share: Share, case: str) -> None:
    groups = Groups.of(layout)
    team = Processes(groups)
    rows = TOKENS // here.size
    team.agree(rows, Wishes(0, False))
    x, y = torch.randn(rows, SITE.d_in), torch.randn(rows, SITE.d_out)
    with counted_traffic() as gathered:
        x, y = team.shared(x), team.shared(y)
    student = _student(team, architecture)
    with counted_traffic() as got, _sums() as rings:
        student.step(x, y, nullcontext())
    sent = share.traffic()
    assert gathered.total() == sent.rows, case
    # Partial sums are swapped, and their gradients gathered.
    assert got["gather"] == sent.sums // 2, case
    assert got["swap"] == sent.candidates + sent.sums // 2, case
    assert sum(size for size, _ in rings) == got["sum"], case
    ring = sum(2 * size * (ranks - 1) / ranks for size, ranks in rings)
    assert sent.gradients + sent.replicated == pytest.approx(ring, abs=FIGURES), case
    assert (ring > FIGURES) == (share.division.replicas > 1), case


def _planned(layout: Layout, architecture: str) -> Share:
    training = Training(
        model=model((SITE,)),
        students=plan_students(
            [SITE],
            architectures=(architecture,),
            ks=(K,),
            seeds=range(layout.students),
            recipe=LayerRecipe(width=WIDTH),
            batch_tokens=TOKENS,
        ),
        batch_tokens=TOKENS,
        buffer_tokens=TOKENS,
    )
    return Share(training, Division(layout))


def _student(team: Processes, architecture: str) -> Student:
    torch.manual_seed(0)
    layer = build(
        architecture, d_in=SITE.d_in, d_out=SITE.d_out, d_hidden=8, activation="gelu", glu=False,
        k=K, width=WIDTH,
    )  # fmt: skip
    recipe = OptimizerRecipe(warmup_steps=0, batch_tokens=TOKENS)
    return Student(
        architecture, SITE.name, layer, lr=1e-2, seed=0, recipe=recipe,
        schedule=Schedule.of(recipe, 10 * TOKENS), companions=team.take_part(layer),
    )  # fmt: skip


@contextmanager
def _sums() -> Iterator[list[tuple[int, int]]]:
    """Bytes of every sum over ranks, and over how many."""
    found: list[tuple[int, int]] = []
    real = dist.all_reduce

    def all_reduce(tensor: torch.Tensor, *given: Any, group: Any = None, **named: Any) -> Any:
        found.append((tensor.numel() * tensor.element_size(), dist.get_world_size(group)))
        return real(tensor, *given, group=group, **named)

    dist.all_reduce = all_reduce
    try:
        yield found
    finally:
        dist.all_reduce = real
