"""Tiny recipes, students and batches that the tests of training are made of."""

import json
from pathlib import Path
from typing import Any

import torch

from mxd.data import ContextOptions
from mxd.layers import build
from mxd.training import (
    BufferRecipe,
    LayerRecipe,
    OptimizerRecipe,
    Recipe,
    Schedule,
    Student,
    StudentSpec,
    TextRecipe,
)

SITE = "transformer.h.1.mlp"
CLOCK = ("seconds", "tokens_per_second", "harvest_seconds", "student_seconds")
"""Fields of a row of metrics that depend on the clock."""
OPTIMIZER = {"batch_tokens": 64, "default_lr": 1e-2, "warmup_share": 0.1}


def tiny_recipe(
    *architectures: str, optimizer: dict[str, Any] | None = None, **changes: Any
) -> Recipe:
    """Twelve steps of 64 tokens in contexts of 16, on block 1."""
    fields: dict[str, Any] = {
        "text": TextRecipe(source="documents", contexts=ContextOptions(length=16)),
        "layers": (1,),
        "students": tuple(StudentSpec(architecture=a, k=3) for a in architectures or ("mxd",)),
        "tokens": 768,
        "layer": LayerRecipe(width=24),
        "optimizer": OptimizerRecipe(**OPTIMIZER, **(optimizer or {})),
        "buffer": BufferRecipe(contexts=16, harvest_contexts=8),
        "precision": "float32",
        "log_every": 4,
    }
    return Recipe(**{**fields, **changes})


def make_student(
    architecture: str = "mxd",
    *,
    lr: float = 1e-2,
    seed: int = 0,
    width: int = 12,
    k: int = 3,
    steps: int = 100,
    options: dict[str, Any] | None = None,
    **recipe: Any,
) -> Student:
    """A student of width 6 to 5 beside any model."""
    torch.manual_seed(seed)
    d_in = 5 if architecture == "topk_autoencoder" else 6
    layer = build(
        architecture, d_in=d_in, d_out=5, d_hidden=8, activation="gelu", glu=False,
        k=k, width=width, options=options,
    )  # fmt: skip
    optimizer = OptimizerRecipe(warmup_steps=0, batch_tokens=32, **recipe)
    schedule = Schedule.of(optimizer, 32 * steps)
    return Student(
        architecture, "site", layer, lr=lr, seed=seed, recipe=optimizer, schedule=schedule
    )


def batches(count: int, *, d_in: int = 6, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of 32 tokens of a fixed nonlinear map from d_in to 5."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d_in, 5, generator=torch.Generator().manual_seed(7))
    xs = [torch.randn(32, d_in, generator=generator) for _ in range(count)]
    return [(x, torch.tanh(x @ weight) + 0.5) for x in xs]


def rows_of(folder: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, by default without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    clock = () if timed else CLOCK
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether all parameters agree bit for bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
