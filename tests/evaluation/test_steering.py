"""Text with one unit turned up."""

import pytest
import torch
from tests.evaluation._parts import SITE, random_layer
from tests.helpers.tiny_models import tiny_model
from torch import nn

from mxd.errors import UserError
from mxd.evaluation import Steered, steer
from mxd.layers import SparseLayer

SPARSE = ["mxd", "transcoder", "skip_transcoder", "topk_autoencoder", "mlp_transcoder"]
WANTED = 11


@pytest.fixture(scope="module")
def writer() -> nn.Module:
    """A model whose last residual goes to the vocabulary unchanged in direction."""
    return tiny_model("gpt2")


def planted(model: nn.Module) -> SparseLayer:
    """Unit 4 writes the direction of w11, and nothing undoes it."""
    layer = random_layer("transcoder")
    assert isinstance(layer, SparseLayer)
    with torch.no_grad():
        norm, head = model.transformer.ln_f, model.lm_head.weight
        direction = (head[WANTED] - head.mean(0)) * norm.weight
        layer.unit_rows[4] = direction - direction.mean()
    return layer


def test_steering_with_strength_zero_changes_nothing(writer: nn.Module, tokenizer) -> None:
    for architecture in SPARSE:
        layer = random_layer(architecture)
        result = steer(writer, tokenizer, SITE, layer, unit=3, strength=0.0, prompt="w3 w4")
        assert result.plain == result.steered
        assert len(result.plain.split()) > 10


def test_steering_a_planted_unit_writes_its_token(writer: nn.Module, tokenizer) -> None:
    result = steer(
        writer, tokenizer, "transformer.h.2.mlp", planted(writer), unit=4, strength=1000.0,
        prompt="w3 w4", max_new_tokens=12, temperature=0.1,
    )  # fmt: skip
    assert result.steered.split().count("w11") >= 11
    assert result.plain.split().count("w11") <= 6
    assert (result.prompt, result.unit, result.strength) == ("w3 w4", 4, 1000.0)


def test_steering_repeats_with_its_seed_and_leaves_random_state_alone(
    writer: nn.Module, tokenizer
) -> None:
    layer = random_layer("mxd")

    def text(seed: int) -> tuple[str, str]:
        result = steer(
            writer, tokenizer, SITE, layer, unit=1, strength=5.0, prompt="w3",
            temperature=2.0, seed=seed,
        )  # fmt: skip
        return result.plain, result.steered

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = text(1)
    assert torch.equal(torch.rand(3), expected)
    assert first == text(1)
    assert first != text(2)


@pytest.mark.parametrize("architecture", SPARSE)
def test_steered_layer_adds_to_one_coefficient(architecture: str) -> None:
    layer = random_layer(architecture).double()
    assert isinstance(layer, SparseLayer)
    x = torch.randn(5, 32, dtype=torch.float64)
    codes = layer.encode(x)
    a = codes.dense()
    a[:, 6] += 2.5
    every = torch.arange(20).expand(5, 20)
    expected = layer.decode(type(codes)(a, every, 20), x)
    torch.testing.assert_close(Steered(layer, 6, 2.5)(x), expected)


@pytest.mark.parametrize("unit", [-1, 20])
def test_unit_that_is_not_there_is_refused(writer: nn.Module, tokenizer, unit: int) -> None:
    with pytest.raises(UserError, match=f"unit {unit}, expected 0 to 19"):
        steer(writer, tokenizer, SITE, random_layer("mxd"), unit=unit, strength=1.0)


def test_strength_beyond_all_numbers_is_refused(writer: nn.Module, tokenizer) -> None:
    for strength, named in (
        (1e38, "NaN or infinite predictions"), (1e39, "does not hold"), (-1e400, "does not hold"),
        (float("nan"), "does not hold"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"{named}.*smaller strength"):
            steer(
                writer, tokenizer, SITE, random_layer("mxd"), unit=0, strength=strength, prompt="w3"
            )


def test_dense_layer_has_nothing_to_steer(writer: nn.Module, tokenizer) -> None:
    with pytest.raises(UserError, match="dense_mlp layer, which has no units"):
        steer(writer, tokenizer, SITE, random_layer("dense_mlp"), unit=0, strength=1.0)


def test_temperature_of_zero_is_refused(writer: nn.Module, tokenizer) -> None:
    layer = random_layer("mxd")
    with pytest.raises(UserError, match="temperature 0"):
        steer(writer, tokenizer, SITE, layer, unit=0, strength=1.0, temperature=0.0)
