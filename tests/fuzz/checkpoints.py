"""Checkpoints of a run that died, and runs that are resumed from them."""

import hashlib
import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from tests.cli._parts import save_tokenizer
from tests.fuzz.campaign import Target
from tests.fuzz.spoiling import linked, spoiled
from tests.helpers.tiny_models import VOCABULARY, tiny_model
from tests.training._parts import tiny_recipe
from transformers import PreTrainedTokenizerFast

from mxd.data import Document
from mxd.training import CheckpointOptions, fit
from mxd.training.checkpoints.folder import Checkpoint, checksum, read_checkpoint, saved_steps


def checkpoint_targets(root: Path, mark: Path) -> list[Target]:
    """The newest checkpoint of a run, as it is read; and resumed from, with fitting checksums."""
    trained = _Training(root / "tokenizer")
    run = root / "run"
    trained.go_on(run, checkpoints=CheckpointOptions(every_steps=2, keep=2))
    shutil.rmtree(run / "layers")
    record = json.loads((run / "run.json").read_text())
    del record["complete"]
    (run / "run.json").write_text(json.dumps(record))
    newest = Path("checkpoints") / f"step-{saved_steps(run)[0]:08d}"
    names = ("checkpoint.json", "student-0.safetensors", "stream-0.safetensors")
    files = spoiled(run, tuple(str(newest / name) for name in names), mark)
    files |= linked(run, (str(newest), "checkpoints"))
    load = partial(_read, newest)
    return [
        Target("checkpoint", run, files, load, _use),
        Target(
            "checkpoint, resealed", run, files, load, trained.use,
            reseal=partial(_reseal, newest), weight=0.4,
        ),
    ]  # fmt: skip


class _Training:
    """A training of four steps that can be begun and gone on with."""

    def __init__(self, folder: Path) -> None:
        save_tokenizer(folder)
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self._model = tiny_model("gpt2")
        draw = random.Random(0)
        self._documents = [
            Document(f"d{i}", " ".join(f"w{draw.randrange(3, VOCABULARY)}" for _ in range(40)))
            for i in range(60)
        ]

    def go_on(self, run: Path, **options: Any) -> None:
        recipe = tiny_recipe("mxd", "dense_mlp", tokens=256)
        documents = self._documents
        fit(self._model, self._tokenizer, recipe, documents=documents, out=run, **options)

    def use(self, checkpoint: Checkpoint, out: Path) -> None:
        """Resume the run that a checkpoint is of."""
        self.go_on(checkpoint.folder.parents[1], resume=True)


def _read(newest: Path, run: Path) -> Checkpoint:
    return read_checkpoint(run / newest)


def _use(checkpoint: Checkpoint, out: Path) -> None:
    for name in checkpoint.content["files"]:
        checkpoint.tensors(name)


def _reseal(newest: Path, run: Path) -> None:
    path = run / newest / "checkpoint.json"
    content = json.loads(path.read_text())
    for name, entry in content["files"].items():
        held = (run / newest / name).read_bytes()
        entry |= {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}
    content["checksum"] = checksum(content)
    path.write_text(json.dumps(content))
