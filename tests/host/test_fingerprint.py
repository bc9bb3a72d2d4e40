"""A model's fingerprint tells it from any other, and from itself in another type."""

import copy

import torch
from tests.helpers.tiny_models import tiny_model
from torch import Tensor, nn

from mxd.host import model_fingerprint


class Odd(nn.Module):
    """Tensors of all kinds of types and sizes."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        # More words than are sampled, and a few bytes over.
        self.long = nn.Parameter(torch.randn(40_000, 7, generator=draw)[:-1])
        self.register_buffer("few", torch.arange(5.0).bfloat16())
        self.register_buffer("packed", torch.arange(19, dtype=torch.uint8))
        self.register_buffer("mask", torch.tensor([True, False, False]))
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("across", torch.arange(12.0).reshape(3, 4).T)
        self.register_buffer("cached", torch.zeros(3), persistent=False)


def test_same_values_have_the_same_fingerprint() -> None:
    odd = Odd()
    assert model_fingerprint(odd) == model_fingerprint(copy.deepcopy(odd))
    assert model_fingerprint(odd).dtypes == "bfloat16, bool, float32, uint8"
    odd.cached += 1
    odd.across = odd.across.contiguous()
    assert model_fingerprint(odd) == model_fingerprint(Odd())


def test_every_changed_value_is_seen() -> None:
    found = {model_fingerprint(Odd()).weights}

    def other(name: str, change: Tensor) -> None:
        odd = Odd()
        getattr(odd, name).data.copy_(change)
        found.add(model_fingerprint(odd).weights)

    odd = Odd()
    for index in (0, 1, 3, 100_001, odd.long.numel() - 1):
        long = odd.long.data.clone()
        long.view(-1)[index] += 1e-6
        other("long", long)
    for name in ("few", "packed", "mask", "across"):
        other(name, getattr(odd, name).flip(0))
    other("scale", torch.tensor(3.0))
    assert len(found) == 1 + 5 + 4 + 1


def test_other_models_and_types_have_other_fingerprints() -> None:
    model = tiny_model("gpt2")
    assert model_fingerprint(model) == model_fingerprint(tiny_model("gpt2"))
    assert model_fingerprint(model).weights != model_fingerprint(tiny_model("gpt2", seed=5)).weights
    half = model_fingerprint(copy.deepcopy(model).bfloat16())
    assert (model_fingerprint(model).dtypes, half.dtypes) == ("float32", "bfloat16")
    assert model_fingerprint(model).weights != half.weights


def test_model_without_weights_has_one_too() -> None:
    with torch.device("meta"):
        meta = nn.Linear(3, 4)
    assert model_fingerprint(meta).dtypes == ""
