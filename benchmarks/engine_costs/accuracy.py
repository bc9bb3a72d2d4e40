"""Error after the same number of tokens with the fast kernels, in bf16, and with the plain kernels.

All runs see the same activations in the same order and start from the same weights. The spread
over seeds is the noise that a difference has to be held against.
"""

from contextlib import nullcontext
from dataclasses import replace
from statistics import mean, stdev

import torch

from engine_costs.plain import plain_kernels
from engine_costs.shapes import batch, gpt2_shape, new_layer
from mxd.data import PYTHON_STDLIB, pack
from mxd.demo import bundled_model
from mxd.evaluation import evaluate
from mxd.host import load_model, load_tokenizer
from mxd.kernels import gate, naive
from mxd.training import (
    LayerRecipe,
    Recipe,
    StudentSpec,
    TextRecipe,
    evaluation_documents,
    fit,
    named_recipe,
)
from mxd.training.precision import autocast

ARCHITECTURES = ("mxd", "transcoder", "skip_transcoder")
LAYER, K = 3, 8
WITHIN = 0.01
"""Relative difference from the plain float32 run that speed may cost."""

Errors = dict[str, dict[str, float]]


def measure_accuracy(
    tokens: int,
    bf16_tokens: int,
    *,
    seeds: tuple[int, ...] = (42, 43, 44),
    expansion: float = 32.0,
    evaluation_tokens: int = 100_000,
) -> dict[str, object]:
    """Held-out NMSE of each way of training, and its difference from the plain kernels.

    Args:
        tokens: tokens to train on in float32; 0 leaves this comparison out.
        bf16_tokens: tokens of a second comparison that includes bf16; 0 leaves it out.
        seeds: seeds of each architecture.
        expansion: width of the matched transcoder in units of d.
        evaluation_tokens: held-out tokens.
    """
    comparisons = []
    for budget, ways in ((tokens, ("plain", "fast")), (bf16_tokens, ("plain", "fast", "bf16"))):
        if budget:
            errors = {
                way: _errors(way, recipe(budget, seeds, expansion), evaluation_tokens)
                for way in ways
            }
            comparisons.append({"tokens": budget, **compare_errors(errors)})
    return {
        "model": "small-gpt2",
        "layer": LAYER,
        "k": K,
        "seeds": list(seeds),
        "expansion": expansion,
        "evaluation_tokens": evaluation_tokens,
        "comparisons": comparisons,
        "recall": {precision: recall(precision) for precision in ("float32", "bf16")},
    }


@torch.no_grad()
def recall(precision: str, tokens: int = 256) -> float:
    """Share of the units chosen in float64 that the gate chooses too, at GPT-2's shape.

    Inputs and weights are random, which puts many pre-activations close together.
    """
    shape = gpt2_shape("mxd", tokens)
    linear, (x, _) = new_layer("mxd", shape).gate_linear, batch(shape)
    weight, bias = linear.weight, linear.bias
    exact = naive.gate(x.double(), weight.double(), bias.double(), shape.k)[1]
    with autocast(precision, x.device):
        found = gate(x, weight, bias, shape.k)[1]
    return float((found.unsqueeze(-1) == exact.unsqueeze(-2)).any(-1).double().mean())


def recipe(tokens: int, seeds: tuple[int, ...], expansion: float) -> Recipe:
    """The recipe for short runs, in float32."""
    specs = tuple(StudentSpec(architecture=a, k=K, seed=s) for a in ARCHITECTURES for s in seeds)
    text = TextRecipe(source=PYTHON_STDLIB, holdout=0.1)
    made = named_recipe("small", text, layers=(LAYER,), students=specs, tokens=tokens)
    return replace(made, layer=LayerRecipe(expansion=expansion), precision="float32")


def _errors(way: str, plan: Recipe, evaluation_tokens: int) -> Errors:
    """Held-out NMSE by architecture and seed; evaluated with the fast kernels in float32."""
    path = bundled_model("gpt2")
    model, tokenizer = load_model(path), load_tokenizer(path)
    print(f"training {len(plan.students)} students on {plan.tokens:,} tokens: {way}", flush=True)
    if way == "bf16":
        plan = replace(plan, precision="bf16")
    with plain_kernels() if way == "plain" else nullcontext() as calls:
        run = fit(model, tokenizer, plan)
    if calls is not None and not (calls["gate"] and calls["combine"]):
        raise RuntimeError(f"the plain kernels were not used: {dict(calls)}")
    contexts = pack(evaluation_documents(plan.text, plan.seed), tokenizer)
    found = evaluate(
        model,
        run.layers,
        contexts,
        tokens=evaluation_tokens,
        bos_token_id=tokenizer.bos_token_id,
    )
    errors: Errors = {}
    for entry in found.to_dict()["layers"]:
        errors.setdefault(entry["architecture"], {})[str(entry["seed"])] = entry["nmse"]
    return errors


def compare_errors(errors: dict[str, Errors]) -> dict[str, object]:
    """Errors of every way, and for each but `plain` the relative difference, paired by seed."""
    plain = errors["plain"]
    differences: dict[str, dict[str, object]] = {}
    for way in errors:
        if way == "plain":
            continue
        for architecture, by_seed in plain.items():
            found = errors[way][architecture]
            relative = [found[seed] / nmse - 1 for seed, nmse in by_seed.items()]
            differences.setdefault(way, {})[architecture] = {
                "relative_difference": mean(relative),
                "by_seed": relative,
                "within_1_percent": abs(mean(relative)) <= WITHIN,
            }
    noise = {
        a: stdev(by_seed.values()) / mean(by_seed.values()) if len(by_seed) > 1 else None
        for a, by_seed in plain.items()
    }
    return {"nmse": errors, "from_plain": differences, "relative_spread_of_seeds": noise}
