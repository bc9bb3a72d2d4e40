"""What a sweep of twelve students costs, beside one harvest, their steps, and twelve single runs.

    python benchmarks/sweep_cost.py --arch gpt2 --tokens 200_000 --out benchmarks/results

Times, each by the wall clock: the stream of activations drained without students; the steps of each
student alone on activations in memory; one run of all twelve; twelve runs of one. One pass serves
all students, so the sweep should cost little more than one harvest and twelve students' steps.
Harvest, steps and sweep are repeated in turn (`--repeats`) and their medians taken; what a sweep
of two steps takes is told as well: budgets must be so long that these fixed costs do not rule.
"""

import argparse
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from compare import machine

from mxd.data import PYTHON_STDLIB, ActivationBatch, ActivationStream, pack
from mxd.demo import BUNDLED, bundled_model
from mxd.host import MLPSite, capture, load_model, load_tokenizer
from mxd.layers import Provenance
from mxd.training import (
    Recipe,
    StudentSpec,
    TextRecipe,
    fit,
    named_recipe,
    resolve_sites,
    training_documents,
)
from mxd.training.build import build_students
from mxd.training.kept_memory import kept_memory
from mxd.training.precision import autocast

ARCHITECTURES = ("mxd", "transcoder", "skip_transcoder")
KS, SEEDS, LAYER = (8, 16), (42, 43), 3
KEPT_BATCHES = 16
SPECS = tuple(
    StudentSpec(architecture=a, k=k, seed=s) for a in ARCHITECTURES for k in KS for s in SEEDS
)


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, measure, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUNDLED), default="gpt2")
    parser.add_argument("--tokens", type=float, default=2e5)
    parser.add_argument("--repeats", type=int, default=2, help="of harvest, steps and sweep")
    parser.add_argument("--no-singles", action="store_true", help="leave out the single runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    flags = parser.parse_args(arguments)
    path = bundled_model(flags.arch)
    model, tokenizer = load_model(path), load_tokenizer(path)
    recipe = recipe_for(SPECS, int(flags.tokens))
    (site,) = resolve_sites(model, recipe)

    two_steps = recipe_for(SPECS, 2 * recipe.optimizer.batch_tokens)
    run_seconds(model, tokenizer, two_steps)  # warm up
    fixed = run_seconds(model, tokenizer, two_steps)
    harvest, steps, sweep = repeated(model, tokenizer, recipe, site, flags.repeats)
    singles = {} if flags.no_singles else single_runs(model, tokenizer, recipe.tokens)
    result = {
        "what": __doc__.splitlines()[0],
        "date": dt.date.today().isoformat(),
        "machine": machine(),
        "versions": {"torch": torch.__version__},
        "model": BUNDLED[flags.arch],
        "recipe": recipe.to_dict(),
        "repeats": flags.repeats,
        "fixed_seconds": fixed,
        "harvest_seconds": harvest,
        "step_seconds": steps,
        "sweep_seconds": sweep,
        "single_run_seconds": singles,
        "sweep_over_harvest_and_steps": sweep / (harvest + sum(steps.values())),
        "sweep_over_single_runs": sweep / sum(singles.values()) if singles else None,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"sweep-cost-{flags.arch}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"fixed: {fixed:.2f} s of a sweep's {sweep:.2f} s")
    print(f"sweep / (harvest + steps) = {result['sweep_over_harvest_and_steps']:.3f}")
    if singles:
        print(f"twelve single runs: {sum(singles.values()):.2f} s")
        print(f"sweep / single runs = {result['sweep_over_single_runs']:.3f}")


def repeated(
    model: torch.nn.Module, tokenizer: object, recipe: Recipe, site: MLPSite, repeats: int
) -> tuple[float, dict[str, float], float]:
    """Median seconds of the harvest alone, of each student's steps alone, and of the sweep."""
    harvests, sweeps = [], []
    steps: dict[str, list[float]] = {}
    for _ in range(repeats):
        with kept_memory():  # as `fit` has it
            seconds, kept, batches = harvest_seconds(model, tokenizer, recipe, [site])
            harvests.append(seconds)
            for name, seconds in step_seconds(recipe, [site], kept, batches).items():
                steps.setdefault(name, []).append(seconds)
        sweeps.append(run_seconds(model, tokenizer, recipe))
        together = harvests[-1] + sum(found[-1] for found in steps.values())
        print(f"harvest and steps {together:.2f} s, sweep {sweeps[-1]:.2f} s", flush=True)
    medians = {name: median(found) for name, found in steps.items()}
    return median(harvests), medians, median(sweeps)


def single_runs(model: torch.nn.Module, tokenizer: object, tokens: int) -> dict[str, float]:
    """Seconds of a run of each student alone."""
    return {
        f"{spec.architecture}-k{spec.k}-s{spec.seed}": run_seconds(
            model, tokenizer, recipe_for((spec,), tokens)
        )
        for spec in SPECS
    }


def recipe_for(specs: tuple[StudentSpec, ...], tokens: int) -> Recipe:
    """The recipe for short runs on the standard library."""
    text = TextRecipe(source=PYTHON_STDLIB)
    return named_recipe("small", text, layers=(LAYER,), students=specs, tokens=tokens)


def harvest_seconds(
    model: torch.nn.Module, tokenizer: object, recipe: Recipe, sites: list[MLPSite]
) -> tuple[float, list[ActivationBatch], int]:
    """Seconds of one harvest without students, its first batches, and how many there were."""
    started = perf_counter()
    kept, count = [], 0
    for batch in _stream(model, tokenizer, recipe, sites):
        count += 1
        if len(kept) < KEPT_BATCHES:
            kept.append(batch)
    return perf_counter() - started, kept, count


def _stream(
    model: torch.nn.Module, tokenizer: object, recipe: Recipe, sites: list[MLPSite]
) -> Iterator[ActivationBatch]:
    """The stream that `fit` makes of this recipe."""
    contexts, buffer = recipe.text.contexts, recipe.buffer
    return iter(
        ActivationStream(
            harvest=lambda ids: capture(model, sites, ids),
            contexts=pack(
                training_documents(recipe.text, recipe.seed),
                tokenizer,
                contexts,
                contexts_per_batch=buffer.harvest_contexts,
                number_documents=False,
            ),
            batch_tokens=recipe.optimizer.batch_tokens,
            buffer_tokens=buffer.contexts * contexts.length,
            refill=buffer.refill,
            harvest_contexts=buffer.harvest_contexts,
            seed=recipe.seed,
            max_tokens=recipe.tokens,
        )
    )


def step_seconds(
    recipe: Recipe, sites: list[MLPSite], kept: list[ActivationBatch], batches: int
) -> dict[str, float]:
    """Seconds that each student's steps take alone, on batches in memory."""
    (site,) = sites
    means = {site.name: kept[0].sites[site.name][1].mean(0)}
    found = {}
    for student in build_students(recipe, sites, means, Provenance()):
        started = perf_counter()
        for number in range(batches):
            x, y = kept[number % len(kept)].sites[site.name]
            student.step(x, y, autocast(recipe.precision, torch.device("cpu")))
        found[student.name] = perf_counter() - started
    return found


def run_seconds(model: torch.nn.Module, tokenizer: object, recipe: Recipe) -> float:
    """Seconds of one run, from its recipe to trained layers in memory."""
    started = perf_counter()
    fit(model, tokenizer, recipe)
    return perf_counter() - started


if __name__ == "__main__":
    main()
