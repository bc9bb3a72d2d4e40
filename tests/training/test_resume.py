"""A run that dies and is resumed ends with the very same bytes."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.tiny_models import tiny_model
from tests.training._parts import tiny_recipe

from mxd import harvest
from mxd.data import ContextOptions, Document
from mxd.errors import UserError
from mxd.training import (
    BufferRecipe,
    CheckpointOptions,
    HarvestRecipe,
    LayerRecipe,
    Student,
    StudentSpec,
    TextRecipe,
    cached_text,
    finished_manifest,
    fit,
)
from mxd.training.checkpoints import (
    CheckpointWriter,
    Part,
    random_state,
    restore_random_state,
    saved_steps,
    writer,
)
from mxd.training.checkpoints.folder import read_checkpoint

EVERY = CheckpointOptions(every_steps=1, keep=99)
SPECS = tuple(StudentSpec(architecture=a, k=3) for a in ("mxd", "skip_transcoder", "dense_mlp"))


def weights(run: Path) -> dict[str, bytes]:
    """The content of every layer's weights and means."""
    files = sorted(run.glob("layers/*/*/*.safetensors"))
    assert files
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def died_at(run: Path, step: int, to: Path) -> Path:
    """A copy of a run as it was when it had just been saved at a step."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("layers"))
    for later in saved_steps(to):
        if later > step:
            shutil.rmtree(to / "checkpoints" / f"step-{later:08d}")
    record = json.loads((to / "run.json").read_text())
    del record["complete"]
    (to / "run.json").write_text(json.dumps(record))
    return to


def rows(run: Path) -> list[dict[str, object]]:
    """The metrics without times."""
    timed = ("seconds", "tokens_per_second", "harvest_seconds", "student_seconds")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in timed} for x in lines]


VARIANTS = {
    "plain": {},
    "epochs": {"tokens": 3000},
    "text that ends": {
        "text": TextRecipe(source="d", contexts=ContextOptions(length=16), on_exhausted="stop"),
        "tokens": 9999,
    },
    "prefetch": {"buffer": BufferRecipe(contexts=16, harvest_contexts=5, prefetch=2)},
    "large refill": {"buffer": BufferRecipe(contexts=40, harvest_contexts=3, refill=1.0)},
    "options": {
        "layer": LayerRecipe(width=24, random_k=True, shared_experts=1),
        "students": (StudentSpec(architecture="mxd", k=4), StudentSpec(architecture="mxd", k=2)),
        "optimizer": {
            "clip_norm": 0.5, "decay_share": 0.3, "auxk_coefficient": 0.1, "dead_after_tokens": 128,
        },
    },
    "unit norm": {
        "layer": LayerRecipe(width=24, unit_norm=True),
        "students": (StudentSpec(architecture="transcoder", k=4),),
        "optimizer": {"micro_tokens": 24},
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_runs_end_with_the_same_bytes(variant, model, tokenizer, documents, tmp_path):
    recipe = tiny_recipe(**{"students": SPECS, "log_every": 3, **VARIANTS[variant]})
    plain = fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "plain")
    often = EVERY if recipe.tokens < 1000 else CheckpointOptions(every_steps=5, keep=99)
    fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "saved", checkpoints=often)
    whole = weights(tmp_path / "plain")
    assert weights(tmp_path / "saved") == whole  # saving changes nothing
    steps = saved_steps(tmp_path / "saved")
    assert steps[-1] == often.every_steps
    for step in {*steps[-2:], *steps[:: max(1, len(steps) // 4)], steps[0]}:
        out = died_at(tmp_path / "saved", step, tmp_path / f"died-{step}")
        torch.manual_seed(step)  # neither random state of the process has a part in it
        random.seed(step)
        run = fit(model, tokenizer, recipe, documents=documents, out=out, resume=True)
        assert weights(out) == whole, step
        assert rows(out) == rows(tmp_path / "saved"), step
        assert run.record["data"] == plain.record["data"]
        assert run.record["resumed"] == [step]
        assert json.loads((out / "run.json").read_text())["complete"] is True


@pytest.mark.parametrize("order", ["shuffled", "harvested"])
def test_runs_from_a_cache_resume_too(order, model, tokenizer, documents, tmp_path):
    text = TextRecipe(source="d", contexts=ContextOptions(length=16))
    kept = HarvestRecipe(
        text=text, layers=(1,), tokens=2000, harvest_contexts=4, dtype="float32", shard_bytes=20_000
    )
    harvest(model, tokenizer, kept, tmp_path / "cache", documents=documents)
    found = finished_manifest(tmp_path / "cache")
    recipe = tiny_recipe(
        text=cached_text(tmp_path / "cache", found), students=SPECS, tokens=3000,
        activations=str(tmp_path / "cache"), activations_order=order,
    )  # fmt: skip
    every = CheckpointOptions(every_steps=10, keep=9)
    fit(model, tokenizer, recipe, out=tmp_path / "saved", checkpoints=every)
    for step in (10, 40):
        out = died_at(tmp_path / "saved", step, tmp_path / f"died-{step}")
        fit(model, tokenizer, recipe, out=out, resume=True)
        assert weights(out) == weights(tmp_path / "saved"), step


@pytest.fixture(scope="module")
def saved(model, tokenizer, documents, tmp_path_factory) -> Path:
    """A finished run with all of its checkpoints; copy it to change it."""
    out = tmp_path_factory.mktemp("saved") / "run"
    recipe = tiny_recipe(students=SPECS)
    fit(model, tokenizer, recipe, documents=documents, out=out, checkpoints=EVERY)
    return out


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.iterdir())


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(
    saved, model, tokenizer, documents, tmp_path, caplog
):
    names = [path.name for path in files_of(saved / "checkpoints" / "step-00000005")]
    assert names == [
        "checkpoint.json", "stream-0.safetensors", *(f"student-{i}.safetensors" for i in range(3)),
    ]  # fmt: skip
    for number, name in enumerate([*names[:3], *names[:2], *names[1:3]]):
        out = died_at(saved, 5, tmp_path / str(number))
        path = out / "checkpoints" / "step-00000005" / name
        raw = bytearray(path.read_bytes())
        if number < 3:
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
        elif number < 5:
            path.write_bytes(raw[: len(raw) // 3])
        else:
            path.unlink()
        caplog.clear()
        fit(
            model, tokenizer, tiny_recipe(students=SPECS), documents=documents, out=out,
            resume=True,
        )  # fmt: skip
        assert "step-00000005 is left out" in caplog.text
        assert "resumed from step 4" in caplog.text
        assert weights(out) == weights(saved)
        assert 5 not in saved_steps(out)


def test_run_without_any_good_checkpoint_is_not_begun_anew(
    saved, model, tokenizer, documents, tmp_path
):
    out = died_at(saved, 2, tmp_path / "run")
    for path in out.glob("checkpoints/*/checkpoint.json"):
        path.write_text("{}")
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match="none of the checkpoints"):
        fit(
            model, tokenizer, tiny_recipe(students=SPECS), documents=documents, out=out,
            resume=True,
        )  # fmt: skip
    assert [p for p in before if p.exists()] == before


def test_resume_without_a_checkpoint_begins(saved, model, tokenizer, documents, tmp_path, caplog):
    recipe = tiny_recipe(students=SPECS)
    for name, prepare in {
        "absent": lambda out: None,
        "empty": lambda out: out.mkdir(),
        "killed at once": lambda out: (out.mkdir(), (out / ".run.json.new").write_text("{")),
        "killed before the first": lambda out: died_at(saved, 0, out),
    }.items():
        out = tmp_path / name
        prepare(out)
        fit(model, tokenizer, recipe, documents=documents, out=out, resume=True)
        assert weights(out) == weights(saved), name
    assert "resumed" not in caplog.text
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "else", resume=True)
    assert (tmp_path / "else" / "mine.txt").read_text() == "mine"


def test_finished_run_is_left_as_it_is(saved, model, tokenizer, documents, tmp_path, caplog):
    shutil.copytree(saved, out := tmp_path / "run")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run = fit(
        model, tokenizer, tiny_recipe(students=SPECS), documents=documents, out=out, resume=True
    )
    assert "finished" in caplog.text
    assert len(run.layers["transformer.h.1.mlp"]) == len(SPECS)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_changed_recipe_is_refused_unless_the_change_is_meant(
    saved, model, tokenizer, documents, tmp_path
):
    out = died_at(saved, 4, tmp_path / "run")
    recipe = tiny_recipe(students=SPECS)
    other = replace(recipe, log_every=2, optimizer=replace(recipe.optimizer, default_lr=1e-3))
    with pytest.raises(UserError, match=r"optimizer.default_lr: .* there, 0.001 here"):
        fit(model, tokenizer, other, documents=documents, out=out, resume=True)
    with pytest.raises(UserError, match=r"--accept-changes log_every$"):
        fit(
            model, tokenizer, other, documents=documents, out=out, resume=True,
            accept_changes=["optimizer"],
        )  # fmt: skip
    with pytest.raises(UserError, match="seed"):
        fit(
            model, tokenizer, replace(other, seed=1), documents=documents, out=out, resume=True,
            accept_changes=["optimizer", "log_every", "seed"],
        )  # fmt: skip
    with pytest.raises(UserError, match=r"'optimizer.rate' among the accepted changes"):
        fit(
            model, tokenizer, other, documents=documents, out=out, resume=True,
            accept_changes=["optimizer", "log_every", "optimizer.rate"],
        )  # fmt: skip
    fit(
        model, tokenizer, other, documents=documents, out=out, resume=True,
        accept_changes=["optimizer.default_lr", "log_every", "tokens"],
    )  # fmt: skip
    assert weights(out) != weights(saved)
    assert [row["step"] for row in rows(out)][-1] == 12


def test_larger_budget_goes_on_where_the_text_goes_on(model, tokenizer, documents, tmp_path):
    recipe = tiny_recipe(students=SPECS, optimizer={"warmup_steps": 0})
    fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "saved", checkpoints=EVERY)
    longer = replace(recipe, tokens=2 * recipe.tokens)
    out = died_at(tmp_path / "saved", 4, tmp_path / "run")
    fit(
        model, tokenizer, longer, documents=documents, out=out, resume=True,
        accept_changes=["tokens"],
    )  # fmt: skip
    fit(model, tokenizer, longer, documents=documents, out=tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


def test_other_model_or_text_is_noticed(saved, model, tokenizer, documents, tmp_path):
    recipe = tiny_recipe(students=SPECS)
    out = died_at(saved, 4, tmp_path / "run")
    with pytest.raises(UserError, match="another model"):
        fit(
            tiny_model("gpt2", seed=5), tokenizer, recipe, documents=documents, out=out, resume=True
        )
    many = [Document(f"m{i}", d.text) for i in range(40) for d in documents[:20]]
    recipe = tiny_recipe(tokens=20_000)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, batch_tokens=256))
    sparse = CheckpointOptions(every_steps=15, keep=9)
    fit(model, tokenizer, recipe, documents=many, out=tmp_path / "many", checkpoints=sparse)
    out = died_at(tmp_path / "many", 60, tmp_path / "died")
    changed = [Document(d.key + ("?" if i == 3 else ""), d.text) for i, d in enumerate(many)]
    with pytest.raises(UserError, match="the text is not what it was"):
        fit(model, tokenizer, recipe, documents=changed, out=out, resume=True)
    assert saved_steps(out)  # what is saved stays
    fit(model, tokenizer, recipe, documents=many, out=out, resume=True)
    assert weights(out) == weights(tmp_path / "many")


def test_only_the_newest_are_kept(model, tokenizer, documents, tmp_path):
    fit(
        model, tokenizer, tiny_recipe("mxd"), documents=documents, out=tmp_path / "run",
        checkpoints=CheckpointOptions(every_steps=2, keep=3),
    )  # fmt: skip
    assert saved_steps(tmp_path / "run") == [12, 10, 8]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 3


def test_disk_that_is_full_for_a_while_costs_a_checkpoint_and_not_the_run(
    saved, model, tokenizer, documents, tmp_path, caplog, monkeypatch
):
    write = writer.write_tensors

    def fails(path, tensors):
        if "step-00000003" in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return write(path, tensors)

    monkeypatch.setattr(writer, "write_tensors", fails)
    out = tmp_path / "run"
    recipe = tiny_recipe(students=SPECS)
    fit(model, tokenizer, recipe, documents=documents, out=out, checkpoints=EVERY)
    assert "step 3 could not be written (No space left on device); the last is 2" in caplog.text
    assert saved_steps(out) == [12, 11, 10, 9, 8, 7, 6, 5, 4, 2, 1]
    assert not list((out / "checkpoints").glob(".*"))
    assert weights(out) == weights(saved)


def test_error_of_a_run_with_a_checkpoint_keeps_it(saved, model, tokenizer, documents, tmp_path):
    out = tmp_path / "run"
    recipe = tiny_recipe(students=SPECS)

    def breaks(progress):
        if progress.tokens >= 6 * 64:
            raise RuntimeError("somebody else's fault")

    with pytest.raises(RuntimeError, match="somebody"):
        fit(
            model, tokenizer, replace(recipe, log_every=1), documents=documents, out=out,
            checkpoints=EVERY, on_progress=breaks,
        )  # fmt: skip
    fit(
        model, tokenizer, recipe, documents=documents, out=out, resume=True,
        accept_changes=["log_every"],
    )  # fmt: skip
    assert weights(out) == weights(saved)


def test_diverged_student_keeps_its_last_good_weights(
    model, tokenizer, documents, tmp_path, monkeypatch, caplog
):
    learn = Student.step

    def step(self, x, y, context):
        bad = self.layer.config.architecture == "mxd" and self.steps == 6
        learn(self, x * float("inf") if bad else x, y, context)

    recipe = tiny_recipe("dense_mlp", "mxd", log_every=12)
    fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "good", checkpoints=EVERY)
    monkeypatch.setattr(Student, "step", step)
    run = fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "bad")
    assert "mxd-k3-w24-s42 diverged at step 7" in caplog.text
    before = read_checkpoint(tmp_path / "good" / "checkpoints" / "step-00000006")
    (name,) = (e["file"] for e in before.content["students"] if e["name"].startswith("mxd"))
    kept = before.tensors(name)
    for key, value in run.layers["transformer.h.1.mlp"]["mxd-k3-w24-s42"].state_dict().items():
        assert torch.equal(value, kept[f"layer.{key}"]), key
    other = "layers/transformer.h.1.mlp/dense_mlp-k0-w0-s42/model.safetensors"
    assert weights(tmp_path / "bad")[other] == weights(tmp_path / "good")[other]


def test_random_states_of_all_libraries_are_put_back(monkeypatch):
    put_back = []
    monkeypatch.setattr(random, "setstate", put_back.append)  # the type checker of tests draws too
    before = random.getstate()
    monkeypatch.setattr(random, "getstate", lambda: before)
    state = json.loads(json.dumps(random_state()))
    drawn = np.random.random(3), torch.rand(3)
    restore_random_state(state)
    again = np.random.random(3), torch.rand(3)
    assert put_back == [before]
    assert np.array_equal(drawn[0], again[0])
    assert torch.equal(drawn[1], again[1])


def test_what_is_saved_does_not_change_after_save_returns(tmp_path):
    held = torch.arange(5.0)
    checkpoints = CheckpointWriter(tmp_path, keep=1)
    checkpoints.save(3, Part({}, {"student-0.safetensors": {"a": held, "b": held[1:4]}}))
    held.zero_()
    checkpoints.wait()
    found = read_checkpoint(tmp_path / "checkpoints" / "step-00000003")
    tensors = found.tensors("student-0.safetensors")
    assert tensors["a"].tolist() == [0, 1, 2, 3, 4]
    assert tensors["b"].tolist() == [1, 2, 3]
