import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from tests.cli._parts import Cli, save_tokenizer, small, write_text
from tests.helpers.tiny_models import tiny_model

from mxd.cli.main import run


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    yield
    logging.captureWarnings(False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Cli(capsys, tmp_path)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny models with a tokenizer, by architecture; `gpt2-1` is of another seed."""
    made: dict[str, Path] = {}

    def save(name: str) -> Path:
        if name not in made:
            arch, _, seed = name.partition("-")
            made[name] = tmp_path_factory.mktemp("models") / name
            tiny_model(arch, seed=int(seed or 0)).save_pretrained(made[name])
            save_tokenizer(made[name])
        return made[name]

    return save


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents under thirty names, some 2400 tokens."""
    return write_text(tmp_path_factory.mktemp("text") / "docs.jsonl.gz", documents=60)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, saved: Callable[[str], Path], text: Path
) -> Path:
    """A run of an MxD and a transcoder on the tiny GPT-2, not evaluated; copy it to change it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = small(text=text, arch="mxd,transcoder", out=out)
    assert run(["fit", str(saved("gpt2")), *flags]) == 0
    return out
