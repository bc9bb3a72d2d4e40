"""Base models as people pass them around: configuration, weights in one file or many, tokenizer."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests.cli._parts import save_tokenizer
from tests.fuzz.campaign import Target
from tests.fuzz.mutations import Mutation
from tests.fuzz.spoiling import linked, spoiled
from tests.helpers.tiny_models import tiny_model
from transformers import GenerationConfig

from mxd.host import load_model, load_tokenizer

_Mutations = Callable[[], Iterable[Mutation]]
_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_INDEX = "model.safetensors.index.json"


def model_targets(root: Path, mark: Path) -> list[Target]:
    """A GPT-2 of one file, and a Llama of several with their index."""
    targets = []
    for arch, shard in (("gpt2", "1GB"), ("llama", "60KB")):
        folder = root / arch
        tiny_model(arch).save_pretrained(folder, max_shard_size=shard)
        GenerationConfig(bos_token_id=0, max_length=20).save_pretrained(folder)
        save_tokenizer(folder)
        weights = sorted(path.name for path in folder.glob("*.safetensors"))[:2]
        settings = (*_FILES, *([_INDEX] if len(weights) > 1 else []))
        for what, files in (("", settings), (" weights", weights)):
            mutations = spoiled(folder, files, mark)
            for name, links in linked(folder, files).items():
                mutations[name] = partial(_both, mutations[name], links)
            name = f"base model {arch}{what}"
            share = 0.5 if what else 1.0
            targets.append(Target(name, folder, mutations, load, use, weight=share))
    return targets


def load(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    return load_model(folder), load_tokenizer(folder)


def use(loaded: tuple[Any, Any], out: Path) -> None:
    """A forward pass, and a bit of text to and fro."""
    model, tokenizer = loaded
    ids = tokenizer("w3 w4")["input_ids"]
    tokenizer.decode(ids)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]).remainder(model.config.vocab_size))


def _both(first: _Mutations, second: _Mutations) -> list[Mutation]:
    return [*first(), *second()]
