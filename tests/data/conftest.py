import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mxd.data import Document

SHARED = Path(os.environ.get("MXD_SHARED", Path(__file__).parents[2] / ".." / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no shared data folder at {SHARED}; set MXD_SHARED to run this")
    return SHARED


@pytest.fixture
def make_tokenizer(tmp_path: Path) -> Callable[..., PreTrainedTokenizerFast]:
    """A tokenizer of the words w0 ... w99, saved and loaded like a real one."""

    def make(**special: str) -> PreTrainedTokenizerFast:
        words = ["[UNK]", *(f"w{i}" for i in range(100))]
        marks = [mark for mark in special.values() if mark not in words]
        vocabulary = {word: i for i, word in enumerate([*words, *dict.fromkeys(marks)])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="[UNK]", model_max_length=16, **special
        )
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        return PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")

    return make


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return make_tokenizer(bos_token="<s>", eos_token="</s>")


@pytest.fixture
def write_jsonl() -> Callable[..., Path]:
    def write(path: Path, *records: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
        return path

    return write


@pytest.fixture
def words() -> Callable[..., Document]:
    """A document of so many words, w<first> and on."""

    def make(key: str, first: int, count: int) -> Document:
        return Document(key, " ".join(f"w{(first + i) % 100}" for i in range(count)))

    return make
