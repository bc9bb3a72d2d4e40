"""A model in which x is a function of the token, and an MxD whose experts stand for one each."""

import json
from pathlib import Path
from typing import Any

import torch
from tests.evaluation._parts import SITE
from tests.helpers.tiny_models import tiny_model
from torch import nn

from mxd.evaluation.probing import Task, load_task
from mxd.host import capture
from mxd.layers import MxD, MxDConfig

N = 16
FIRST = 3
"""Expert n fires on the token w(FIRST + n) alone."""


def token_model() -> nn.Module:
    """A model in which x at the site depends on the current token alone."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h[:2]:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
    return model


def token_experts(model: nn.Module) -> MxD:
    """An MxD whose expert n is on for the token w(FIRST + n), and for no other of these."""
    tokens = torch.arange(FIRST, FIRST + N)
    x = capture(model, [SITE], tokens[:, None])[SITE][0][:, 0]
    layer = MxD(MxDConfig(d_in=32, d_out=32, d_hidden=8, n_experts=N, k=4))
    with torch.no_grad():
        # Gate rows that give 1 for a token's own x and −1 for the others'.
        target = 2 * torch.eye(N, dtype=torch.float64) - 1
        layer.gate.weight.copy_((torch.linalg.pinv(x.double()) @ target).T)
        layer.gate.bias.zero_()
    layer.provenance.seed = 0
    return layer.eval()


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def marked_texts(per_class: int = 40, classes: int = 3) -> list[dict[str, str]]:
    """Texts of filler tokens, among which only those of class c hold the token w(FIRST + c)."""
    generator = torch.Generator().manual_seed(0)
    filler = range(FIRST + classes, FIRST + N)
    rows = []
    for number in range(per_class):
        for label in range(classes):
            picks = torch.randint(len(filler), (int(4 + number % 5),), generator=generator)
            words = [f"w{filler[int(i)]}" for i in picks]
            words.insert(number % len(words), f"w{FIRST + label}")
            split = "test" if number % 4 == 0 else "train"
            rows.append({"text": " ".join(words), "label": f"c{label}", "split": split})
    return rows


def marked_task(folder: Path, **options: Any) -> Task:
    return load_task(write_rows(folder / "marked.jsonl", marked_texts()), **options)
