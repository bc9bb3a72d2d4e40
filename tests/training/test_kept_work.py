"""Whatever ends a run after its first step, what was learnt is kept and can be gone on with."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training._parts import SITE, tiny_recipe

from mxd.data import Document, DocumentSource, RetryOptions
from mxd.data.retrying import retried
from mxd.errors import UserError
from mxd.training import (
    BufferRecipe,
    CheckpointOptions,
    Interrupted,
    Recipe,
    Stopped,
    Student,
    ending,
    fit,
)
from mxd.training import open_run as opened
from mxd.training.checkpoints import Part, saved_steps, writer
from mxd.training.interruption import Interruption
from mxd.training.run_folder import continuing, writing


def weights(run: Path) -> dict[str, bytes]:
    files = sorted(run.glob("layers/*/*/*.safetensors"))
    assert files
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """Some 2200 tokens; 64 documents are tokenised together."""
    return [
        Document(f"d{i}", " ".join(f"w{3 + (7 * i + j * j) % 60}" for j in range(10)))
        for i in range(200)
    ]


def patient_recipe(prefetch: int) -> Recipe:
    """Twenty steps: more than the first documents are enough for."""
    buffer = BufferRecipe(contexts=16, harvest_contexts=8, prefetch=prefetch)
    return tiny_recipe("mxd", "transcoder", tokens=1280, buffer=buffer)


def broken(documents: list[Document], error: Exception, tell: Any = None) -> DocumentSource:
    """Documents of which the later ones cannot be had."""

    def one_pass() -> Iterator[Document]:
        yield from documents[:70]
        if tell is not None:
            tell()
        raise error

    # Long waits: whoever does not look whether he should still wait is not back in time.
    patient = RetryOptions(tries=100, first_seconds=40, longest_seconds=40, total_seconds=120)
    return DocumentSource("a source", lambda: retried(one_pass, "a source", patient))


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_source_that_fails_for_good_leaves_a_run_to_go_on_with(
    model, tokenizer, documents, tmp_path: Path, caplog: pytest.LogCaptureFixture, prefetch: int
) -> None:
    recipe = patient_recipe(prefetch)
    out, whole = tmp_path / "run", tmp_path / "whole"
    lost = broken(documents, UserError("the source is gone"))
    with pytest.raises(UserError, match="the source is gone"):
        fit(model, tokenizer, recipe, documents=lost, out=out)
    (step,) = saved_steps(out)
    assert step >= 1
    assert f"it is saved at step {step}: go on with --resume" in caplog.text
    assert opened(out).record["complete"] is False
    fit(model, tokenizer, recipe, documents=documents, out=out, resume=True)
    fit(model, tokenizer, recipe, documents=documents, out=whole)
    assert weights(out) == weights(whole)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_signal_is_heard_while_a_source_is_waited_for(
    model, tokenizer, documents, tmp_path: Path, prefetch: int
) -> None:
    recipe = patient_recipe(prefetch)
    out, whole = tmp_path / "run", tmp_path / "whole"
    stalled = broken(
        documents, ConnectionError("away"), lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(Interrupted, match="saved at step") as stopped:
        fit(model, tokenizer, recipe, documents=stalled, out=out)
    assert stopped.value.signal_number == signal.SIGTERM
    assert saved_steps(out)
    fit(model, tokenizer, recipe, documents=documents, out=out, resume=True)
    fit(model, tokenizer, recipe, documents=documents, out=whole)
    assert weights(out) == weights(whole)


def test_a_signal_before_the_first_step_says_which_it_was(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    def spoken(*_: object) -> Iterator[Document]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from documents

    with pytest.raises(Stopped) as stopped:
        fit(
            model, tokenizer, tiny_recipe(), documents=DocumentSource("d", spoken),
            out=tmp_path / "run",
        )  # fmt: skip
    assert stopped.value.signal_number == signal.SIGTERM
    assert not saved_steps(tmp_path / "run")


def test_a_signal_while_layers_are_stored_waits_for_them(
    model, tokenizer, documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ending.store_means

    def signalled(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        store(*arguments)

    monkeypatch.setattr(ending, "store_means", signalled)
    run = fit(model, tokenizer, tiny_recipe(), documents=documents, out=tmp_path / "run")
    assert run.record["complete"] is True
    assert weights(tmp_path / "run")


def test_an_error_in_a_step_keeps_the_layers(
    model, tokenizer, documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some students have made the step and others not, so there is nothing to go on from."""
    step = Student.step

    def fails(self: Student, *arguments: Any) -> None:
        if self.steps == 5:
            raise RuntimeError("unthinkable")
        step(self, *arguments)

    monkeypatch.setattr(Student, "step", fails)
    with pytest.raises(RuntimeError, match="unthinkable"):
        fit(model, tokenizer, tiny_recipe(), documents=documents, out=tmp_path / "run")
    found = opened(tmp_path / "run")
    assert found.record["complete"] is False
    (layer,) = found.layers[SITE].values()
    assert layer.provenance.training["steps"] == 5
    assert not saved_steps(tmp_path / "run")


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ((writer, "write_tensors"), MemoryError()),
        ((Part, "copied"), RuntimeError("can't allocate memory")),
    ],
)
def test_a_checkpoint_that_fails_in_any_way_is_said_and_the_run_goes_on(
    model, tokenizer, documents, tmp_path: Path, monkeypatch, caplog, broken, error
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(*broken, fail)
    out = tmp_path / "run"
    every = CheckpointOptions(every_steps=3)
    run = fit(model, tokenizer, tiny_recipe(), documents=documents, out=out, checkpoints=every)
    assert run.record["complete"] is True
    assert caplog.text.count("could not be written") == 4
    assert not saved_steps(out)


def test_nobody_says_saved_of_what_was_not(
    model, tokenizer, documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    def stop(_progress: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(writer, "write_tensors", fail)
    with pytest.raises(Interrupted, match=r"step 4 could not be saved .*there is no checkpoint"):
        fit(
            model, tokenizer, tiny_recipe(), documents=documents, out=tmp_path / "run",
            on_progress=stop,
        )  # fmt: skip


def test_a_checkpoint_that_appears_while_a_run_starts_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    saved = run / "checkpoints" / "step-00000012" / "stream-0.safetensors"
    saved.parent.mkdir(parents=True)
    saved.touch()
    (run / "run.json").write_text("{}")
    with (
        pytest.raises(UserError, match="saved by another process"),
        writing(run, True, unsaved=True),
    ):
        pytest.fail("it was begun anew")
    assert saved.exists()


def test_what_a_run_replaced_goes_when_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / ".run.replaced" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    with continuing(tmp_path / "run"):
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_whose_students_all_diverged_ends_at_the_same_step_when_resumed(
    model, tokenizer, documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Student.step

    def spoilt(self: Student, x: torch.Tensor, y: torch.Tensor, context: Any) -> None:
        if self.steps == 1:
            self.layer.bias.data.fill_(float("inf"))
        step(self, x, y, context)

    monkeypatch.setattr(Student, "step", spoilt)
    out = tmp_path / "run"
    every = CheckpointOptions(every_steps=1, keep=99)
    fit(model, tokenizer, tiny_recipe(), documents=documents, out=out, checkpoints=every)
    before = weights(out)
    assert saved_steps(out)[0] == 4  # where the report noticed
    record = json.loads((out / "run.json").read_text())
    del record["complete"]
    (out / "run.json").write_text(json.dumps(record))
    fit(model, tokenizer, tiny_recipe(), documents=documents, out=out, resume=True)
    assert saved_steps(out)[0] == 4
    assert weights(out) == before


def test_a_second_signal_counts_unless_it_is_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mxd.training.interruption.monotonic", lambda: now[0])
    heard = Interruption()
    with heard.waiting("saving after this step"):
        heard(signal.SIGINT, None)
        now[0] += 0.1
        heard(signal.SIGINT, None)  # the wrapper passes on what the terminal sent to all
        assert heard.asked == signal.SIGINT
        now[0] += 5
        with pytest.raises(Stopped):
            heard(signal.SIGINT, None)
    several = Interruption()
    several.others = True
    with several.waiting("saving after this step"):
        several(signal.SIGTERM, None)
        now[0] += 5
        several(signal.SIGTERM, None)  # torchrun's
        with pytest.raises(Stopped):
            several(signal.SIGINT, None)


def test_a_finished_run_is_told_from_another_recipe(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fit(model, tokenizer, tiny_recipe(), documents=documents, out=out)
    longer = tiny_recipe(tokens=1280)
    with pytest.raises(UserError, match="tokens: 768 there, 1280 here"):
        fit(model, tokenizer, longer, documents=documents, out=out, resume=True)
    with pytest.raises(UserError, match="kept no checkpoint"):
        fit(
            model, tokenizer, longer, documents=documents, out=out, resume=True,
            accept_changes=["tokens"],
        )  # fmt: skip
