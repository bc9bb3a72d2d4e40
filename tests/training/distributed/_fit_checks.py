"""What each rank does when a whole training runs on several of them."""

import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.training._parts import OPTIMIZER
from torch import nn

from mxd.data import ContextOptions, Document, read_manifest
from mxd.errors import UserError
from mxd.training import (
    BufferRecipe,
    CheckpointOptions,
    LayerRecipe,
    OptimizerRecipe,
    Recipe,
    StudentSpec,
    TextRecipe,
    cached_text,
    fit,
)
from mxd.training.distributed import World
from mxd.training.interruption import Interrupted
from mxd.training.saver import Saver
from mxd.training.team import Wishes

SPECS = ("mxd", "skip_transcoder", "topk_autoencoder")


ALL = -1
"""In place of a victim's rank."""


def documents(count: int) -> list[Document]:
    """Documents of unlike lengths: shards of them end at different steps."""
    return [
        Document(f"d{i}", " ".join(f"w{3 + (7 * i + j * j) % 60}" for j in range(20 + i % 17)))
        for i in range(count)
    ]


def recipe(changes: dict[str, Any]) -> Recipe:
    """Sixteen steps of 64 tokens for three layers of 25 units (not divisible)."""
    given = dict(changes)
    specs = given.pop("students", SPECS)
    optimizer = given.pop("optimizer", {})
    layer = given.pop("layer", {})
    exhausted = given.pop("on_exhausted", "repeat")
    fields: dict[str, Any] = {
        "text": TextRecipe(source="d", contexts=ContextOptions(length=16), on_exhausted=exhausted),
        "layers": (1,),
        "students": tuple(StudentSpec(architecture=a, k=3) for a in specs),
        "tokens": 1024,
        "layer": LayerRecipe(**{"width": 25, **layer}),
        "optimizer": OptimizerRecipe(**OPTIMIZER, **optimizer),
        "buffer": BufferRecipe(contexts=16, harvest_contexts=4),
        "precision": "float32",
        "log_every": 4,
        "text_shards": 4,
        **given,
    }
    return Recipe(**fields)


def train(
    out: str, changes: dict[str, Any], layout: str | None = None, count: int = 43, **more: Any
) -> None:
    """One training, in a process alone or on one of several ranks."""
    from tests.training.distributed._preload import MODEL, TOKENIZER

    every = more.pop("every", None)
    fit(
        MODEL, TOKENIZER, recipe(changes), documents=documents(count), out=out, layout=layout,
        checkpoints=CheckpointOptions(every_steps=every, keep=99), **more,
    )  # fmt: skip


def trains_with(
    here: World, out: str, changes: dict[str, Any], layout: str | None, more: dict[str, Any]
) -> None:
    train(out, changes, layout, **more)


def refuses(here: World, out: str, cases: list[tuple[dict[str, Any], str | None, str]]) -> None:
    """Every rank ends with the same refusal, and nothing is left behind."""
    for changes, layout, message in cases:
        with pytest.raises(UserError, match=message):
            train(out, changes, layout)
        assert not Path(out).exists()


def refuses_before_text(
    here: World, out: str, cases: list[tuple[dict[str, Any], str, str]]
) -> None:
    """The same, before any text goes through the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("mxd.training.fit"), "open_shards", None)
        refuses(here, out, cases)


def is_started_unlike(here: World, out: str) -> None:
    """The last rank has something else than the others, and all say what."""
    from tests.training.distributed._preload import MODEL

    odd = here.rank == here.size - 1
    optimizer = {"betas": (0.5, 0.9)} if odd else {}
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("recipe.log_every", {"log_every": 5} if odd else {}, {}),
        ("recipe.optimizer", {"optimizer": optimizer}, {}),
        ("resume", {}, {"resume": odd}),
        ("checkpoints.every_steps", {}, {"every": 3} if odd else {}),
        ("layout", {}, {"layout": f"students={here.size}"} if odd else {}),
    ]
    for named, changes, more in cases:
        with pytest.raises(UserError, match=rf"got another {named} on rank {here.size - 1} than"):
            train(out, changes, **more)
    with pytest.MonkeyPatch.context() as patch:
        if odd:
            patch.setattr(MODEL.lm_head, "weight", nn.Parameter(MODEL.lm_head.weight + 1))
        with pytest.raises(UserError, match=f"got another model on rank {here.size - 1} than"):
            train(out, {})


def has_another_folder(here: World, out: str) -> None:
    """The folder of that name is not the first one's; all say so, and nothing is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mxd.training.seen_by_all.SEEN_SECONDS", 0.2)
        with pytest.raises(UserError, match="another folder on rank 1 than on rank 0"):
            train(f"{out}-{here.rank}", {})


def trains_from_cache(here: World, out: str, cache: str, layout: str | None) -> None:
    """A training from a cache, which the first rank alone reads."""
    from tests.training.distributed._preload import MODEL, TOKENIZER

    text = cached_text(Path(cache), read_manifest(Path(cache)))
    given = recipe({"text": text, "activations": cache, "text_shards": 1})
    fit(MODEL, TOKENIZER, given, out=out, layout=layout)


def dies(here: World, out: str, changes: dict[str, Any], layout: str, victim: int) -> None:
    """One rank is killed, or all, in the middle of a training that is saved every other step."""

    def at(progress: Any) -> None:
        if victim in (here.rank, ALL) and progress.tokens >= 512:
            os.kill(os.getpid(), signal.SIGKILL)

    train(out, changes, layout, every=2, on_progress=at)


def is_asked_to_stop(here: World, out: str, changes: dict[str, Any], layout: str) -> None:
    """SIGTERM reaches one rank alone; all save at the same step and say so."""

    def at(progress: Any) -> None:
        if here.rank == 1 and progress.tokens == 512:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="saved at step") as caught:
        train(out, changes, layout, on_progress=at)
    assert caught.value.signal_number == signal.SIGTERM


def stops_again(here: World, out: str, changes: dict[str, Any], layout: str) -> None:
    """A resumed training is asked to stop after five more steps."""
    if here.rank == 0:  # a signal would come at some moment of a step
        _stop_after(5)
    with pytest.raises(Interrupted, match="saved at step"):
        train(out, changes, layout, resume=True)


def _stop_after(steps: int) -> None:
    wishes = Saver.wishes
    seen: list[int] = []

    def wished(saver: Saver) -> Wishes:
        seen.append(0)
        return wishes(saver)._replace(asked=signal.SIGTERM if len(seen) == steps else 0)

    Saver.wishes = wished  # type: ignore[method-assign]
