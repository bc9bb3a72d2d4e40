"""Every figure of an evaluation against its own computation, in float64, all tokens at once."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.evaluation._parts import ALL, SITE, random_layer, text
from torch import Tensor, nn

from mxd.evaluation import evaluate
from mxd.layers import Layer, take_statistics

USAGE = (
    "l0", "dead_fraction", "usage_entropy", "max_expert_frequency", "experts_above_10pct",
    "top_expert_share",
)  # fmt: skip
KEYS = {
    "name", "site", "architecture", "k", "width", "seed", "parameters", "active_parameters",
    "flops_per_token", "nmse", "nmse_without_bos", "fvu", "static_nmse", "modulation_share",
    "cross_entropy", "delta_cross_entropy", "delta_cross_entropy_se", "loss_recovered", "kl",
    *USAGE,
}  # fmt: skip
EXCLUDED = (5, 9, 17, 33, 60)


@contextmanager
def replacing(model: nn.Module, function: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """The site gives function(x, y), by a plain hook."""
    hook = model.get_submodule(SITE).register_forward_hook(
        lambda _module, args, y: function(args[0], y)
    )
    yield
    hook.remove()


class ByHand:
    """Base model, tokens and layer in float64; everything in one batch."""

    def __init__(self, model: nn.Module, layer: Layer, excluded: tuple[int, ...]) -> None:
        batches = text()
        self.model, self.layer = model, copy.deepcopy(layer).double()
        self.ids = torch.cat([b.tokens for b in batches])
        self.documents = torch.cat([b.documents for b in batches])
        self.counted = torch.tensor([[int(i) not in excluded for i in row] for row in self.ids])
        self.seen: dict[str, Tensor] = {}
        self.base = self.logits(lambda x, y: self.seen.update(x=x, y=y) or y)
        fed = self.seen["y"] if layer.reads == "output" else self.seen["x"]
        self.fed = fed[self.counted]
        self.y = self.seen["y"][self.counted]
        self.output = self.layer(self.fed)

    def logits(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        with torch.no_grad(), replacing(self.model, function):
            return self.model(self.ids).logits

    def losses(self, logits: Tensor) -> Tensor:
        """−log p of the counted next tokens."""
        p = logits[:, :-1].softmax(-1).gather(-1, self.ids[:, 1:, None]).squeeze(-1)
        return -p.log()[self.counted[:, 1:]]

    def layer_output(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(y if self.layer.reads == "output" else x)

    def prediction(self) -> dict[str, float]:
        ours, base = self.logits(self.layer_output), self.losses(self.base)
        losses, zero = self.losses(ours), self.losses(self.logits(lambda x, y: 0 * y))
        groups = self.documents[:, 1:][self.counted[:, 1:]]
        delta = losses - base
        scores = [(delta[groups == d] - delta.mean()).sum() for d in range(3)]
        variance = sum(score**2 for score in scores) * 3 / 2
        p, q = self.base[:, :-1].softmax(-1), ours[:, :-1].softmax(-1)
        return {
            "cross_entropy": losses.mean().item(),
            "delta_cross_entropy": delta.mean().item(),
            "delta_cross_entropy_se": math.sqrt(variance) / len(delta),
            "loss_recovered": ((zero.mean() - losses.mean()) / (zero.mean() - base.mean())).item(),
            "kl": (p * (p / q).log()).sum(-1)[self.counted[:, 1:]].mean().item(),
        }

    def ratios(self, output: Tensor) -> Tensor:
        return (output - self.y).square().sum(-1) / self.y.square().sum(-1)

    def reconstruction(self) -> dict[str, float]:
        ratios, not_bos = self.ratios(self.output), self.ids[self.counted] != 0
        spread = (self.y - self.y.mean(0)).square().sum()
        return {
            "nmse": ratios.mean().item(),
            "nmse_without_bos": ratios[not_bos].mean().item(),
            "fvu": ((self.output - self.y).square().sum() / spread).item(),
        }

    def coefficients(self) -> Tensor:
        router = self.layer.gate_linear
        centred = self.fed - self.layer.bias if self.layer.reads == "output" else self.fed
        a = (centred @ router.weight.T + router.bias).relu()
        return torch.where(a >= a.topk(4).values[:, -1:], a, 0.0)

    def modulation(self) -> dict[str, float | None]:
        if self.layer.config.architecture != "mxd":
            return {"static_nmse": None, "modulation_share": None}
        m = self.coefficients() @ self.layer.modulators
        z = nn.functional.gelu(self.fed @ self.layer.encoder.weight.T + self.layer.encoder.bias)
        frozen = self.layer.statistics["mean_modulation"].double()
        static = frozen * (z @ self.layer.decoder) + self.layer.bias
        torch.testing.assert_close(m * (z @ self.layer.decoder) + self.layer.bias, self.output)
        varying = (m - m.mean(0)).square().sum(-1).mean() / m.square().sum(-1).mean()
        return {
            "static_nmse": self.ratios(static).mean().item(),
            "modulation_share": varying.item(),
        }

    def usage(self) -> dict[str, float | None]:
        if not self.layer.config.n_units:
            return dict.fromkeys(USAGE)
        a = self.coefficients()
        fired = (a > 0).double()
        frequency, shares = fired.mean(0), fired.sum(0) / fired.sum()
        mass = (a * self.layer.unit_rows.norm(dim=-1)).sum(0)
        entropy = -sum(s * math.log(s) for s in shares.tolist() if s)
        return {
            "l0": fired.sum(-1).mean().item(),
            "dead_fraction": (frequency == 0).double().mean().item(),
            "usage_entropy": entropy / math.log(20),
            "max_expert_frequency": frequency.max().item(),
            "experts_above_10pct": int((frequency > 0.1).sum()),
            "top_expert_share": (mass[frequency == frequency.max()].max() / mass.sum()).item(),
        }

    def cost(self) -> dict[str, int]:
        sizes = {n: p.numel() for n, p in self.layer.named_parameters()}
        idle = 16 * (32 + 1 + 32) if self.layer.config.n_units else 0
        matrices = sum(p.numel() for p in self.layer.parameters() if p.ndim == 2)
        unread = 16 * 32 if self.layer.config.n_units else 0
        total = sum(sizes.values())
        return {
            "parameters": total,
            "active_parameters": total - idle,
            "flops_per_token": 2 * (matrices - unread),
        }


@pytest.mark.parametrize("excluded", [(), EXCLUDED], ids=["all tokens", "some excluded"])
@pytest.mark.parametrize("architecture", ALL)
def test_every_figure_equals_its_own_computation(
    model: nn.Module, double: nn.Module, architecture: str, excluded: tuple[int, ...]
) -> None:
    layer = random_layer(architecture)
    take_statistics(layer, torch.randn(50, 32), torch.randn(50, 32) + 1)
    by_hand = ByHand(double, layer, excluded)
    if excluded:
        assert not by_hand.counted.all()
    found = evaluate(
        model, {SITE: {"student": layer}}, text(), bos_token_id=0, excluded_token_ids=excluded
    ).to_dict()
    dense = architecture == "dense_mlp"
    expected: dict[str, Any] = {
        "name": "student", "site": SITE, "architecture": architecture, "seed": 0,
        "k": None if dense else 4, "width": None if dense else 20,
        **by_hand.cost(), **by_hand.reconstruction(), **by_hand.modulation(),
        **by_hand.prediction(), **by_hand.usage(),
    }  # fmt: skip
    (entry,) = found["layers"]
    assert set(entry) == set(expected) == KEYS
    for key, value in expected.items():
        if isinstance(value, float):
            assert entry[key] == pytest.approx(value, rel=2e-4, abs=1e-5), key
        else:
            assert entry[key] == value, key

    mean = layer.statistics["mean_output"].double()
    ablated = {
        "base_cross_entropy": by_hand.base,
        "zero_ablation_cross_entropy": by_hand.logits(lambda x, y: 0 * y),
        "mean_ablation_cross_entropy": by_hand.logits(lambda x, y: mean.expand_as(y)),
    }
    for key, logits in ablated.items():
        assert found[key] == pytest.approx(by_hand.losses(logits).mean().item(), rel=1e-5), key
    assert found["tokens"] == 48
    assert found["predicted_tokens"] == int(by_hand.counted[:, 1:].sum())
    assert (found["documents"], found["static_reference"]) == (3, "training")


def test_document_has_exactly_the_promised_keys(model: nn.Module) -> None:
    found = evaluate(model, {SITE: {"a": random_layer("mxd")}}, text(), bos_token_id=0).to_dict()
    assert {
        "tokens", "base_cross_entropy", "zero_ablation_cross_entropy",
        "mean_ablation_cross_entropy", "layers",
    } <= set(found)  # fmt: skip
    assert set(found["layers"][0]) == KEYS
    assert "by_document" not in found
