"""Models, text and a way to call the command line that its tests share."""

import gzip
import json
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.helpers.tiny_models import VOCABULARY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mxd.cli.main import run

SECONDS_FOR_A_REFUSAL = 20
"""Generous: a machine may be loaded. The hub's own client tries for far longer."""


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Cli:
    """Runs `mxd` within this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys, self.folder = capsys, folder

    def __call__(self, *arguments: object) -> Result:
        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Result(code, *self._capsys.readouterr())

    def succeeds(self, *arguments: object) -> Result:
        """Run, and expect exit code 0."""
        result = self(*arguments)
        assert result.code == 0, result.err
        assert "Traceback" not in result.err + result.out
        return result

    def refuses(self, arguments: Sequence[object], *named: object) -> str:
        """Run, and expect the refusal of bad input; returns its one sentence.

        Args:
            arguments: the command line.
            named: what the sentence must say.
        """
        before, started = contents(self.folder), time.monotonic()
        result = self(*arguments)
        assert result.code == 2, f"exit code {result.code}: {result.err}"
        assert result.err.count("\n") == 1, result.err
        assert re.match(r"mxd: \S.*\S\n", result.err), result.err
        assert "Traceback" not in result.err + result.out
        assert time.monotonic() - started < SECONDS_FOR_A_REFUSAL
        for name in named:
            assert str(name) in result.err, f"{name!r} is not in {result.err!r}"
        assert contents(self.folder) == before, "something was left behind or changed"
        return result.err


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: the bytes of each file, None for each folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of the 64 tokens of the tiny models: BOS, EOS, UNK, then w3 ... w63."""
    word_tokenizer().save_pretrained(folder)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """That tokenizer."""
    words = ["<s>", "</s>", "[UNK]", *(f"w{i}" for i in range(3, VOCABULARY))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )


def write_text(path: Path, *, documents: int, seed: int = 0) -> Path:
    """Write a .jsonl.gz of documents with 40 random words each; every second continues its doc."""
    draw = random.Random(seed)
    records = [
        {
            "text": " ".join(f"w{draw.randrange(3, VOCABULARY)}" for _ in range(40)),
            "doc": f"d{seed}-{i // 2}",
        }
        for i in range(documents)
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    return path


def small(**flags: Any) -> list[str]:
    """The flags of a training of a second: twelve steps of 64 tokens in contexts of 16, block 1."""
    chosen = {
        "layers": 1,
        "arch": "mxd",
        "k": 3,
        "width": 24,
        "context": 16,
        "tokens": 768,
        "batch_tokens": 64,
        "buffer_contexts": 16,
        "harvest_contexts": 8,
        "precision": "float32",
        "log_every": 4,
        "holdout": 0.3,
        **flags,
    }
    return as_flags(chosen)


def as_flags(chosen: dict[str, Any]) -> list[str]:
    """Flags as typed; None leaves one out and True is a switch."""
    words: list[str] = []
    for name, value in chosen.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def read_json(path: Path) -> Any:
    """A JSON document in which nothing is NaN or infinite."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
