"""The training that is tortured: a tiny model, three students, a checkpoint every few steps."""

from collections.abc import Callable
from pathlib import Path

from tests.cli._parts import save_tokenizer, small, write_text
from tests.helpers.tiny_models import tiny_model

SILENCE = 20.0
"""Seconds that several processes wait for each other; users wait longer."""


def prepare(folder: Path) -> None:
    """Save a tiny model, its tokenizer and a text."""
    tiny_model("gpt2").save_pretrained(folder / "model")
    save_tokenizer(folder / "model")
    write_text(folder / "docs.jsonl.gz", documents=120)


def fit_command(
    folder: Path, *, steps: int, every: int, divided: str | None = None, **flags: object
) -> Callable[[Path, int], list[str]]:
    """`mxd fit` over several epochs, the same command for the first attempt and each later one.

    Args:
        folder: what `prepare` filled.
        steps: of the run.
        every: steps between two checkpoints.
        divided: what several processes divide: `data` or `experts`.
        flags: further flags.

    Returns:
        The arguments of `mxd` from the run's folder and the number of processes.
    """

    def command(out: Path, ranks: int) -> list[str]:
        chosen = {
            "text": folder / "docs.jsonl.gz",
            "arch": "mxd,transcoder,skip_transcoder",
            "layers": "0,1",
            "tokens": 64 * steps,
            "checkpoint_every": every,
            "out": out,
            "layout": f"{divided}={ranks}" if divided else None,
            "distributed_timeout": SILENCE / 60 if divided else None,
            **flags,
        }
        return ["fit", str(folder / "model"), *small(**chosen), "--resume"]

    return command
