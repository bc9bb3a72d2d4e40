"""MxD against its baselines and controls on a bundled model, each at its own best learning rate.

    python benchmarks/compare.py --arch gpt2 --out benchmarks/results

First a grid: every architecture at every learning rate, one seed, one pass of the model; the best
is the one with the lowest error on the last tenth of the training text, which is read once and so
is unseen. Then three seeds at that rate, again in one pass, and an evaluation on held-out files
with differences paired by document. Everything goes into one JSON file.
"""

import argparse
import datetime as dt
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from mxd.data import PYTHON_STDLIB, pack
from mxd.demo import BUNDLED, bundled_model
from mxd.evaluation import evaluate
from mxd.host import load_model, load_tokenizer
from mxd.training import (
    LayerRecipe,
    Recipe,
    Run,
    StudentSpec,
    TextRecipe,
    changed,
    evaluation_documents,
    fit,
    named_recipe,
)

ARCHITECTURES = ("mxd", "transcoder", "skip_transcoder", "mlp_transcoder", "dense_mlp")
RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
SEEDS = (42, 43, 44)
LAYER, K = 3, 8


def main() -> None:
    """Parse the flags, run, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=list(BUNDLED), default="gpt2")
    parser.add_argument("--tokens", type=float, default=2e6)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens in a step")
    parser.add_argument("--evaluation-tokens", type=float, default=2e5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--show", type=Path, help="print the tables of an earlier result")
    flags = parser.parse_args()
    if flags.show is not None:
        show(json.loads(flags.show.read_text(encoding="utf-8")))
        return
    started = time.time()
    model, tokenizer = (load(bundled_model(flags.arch)) for load in (load_model, load_tokenizer))

    def train(specs: list[StudentSpec]) -> Run:
        plan = recipe(specs, int(flags.tokens), flags.batch_tokens)
        return fit(model, tokenizer, plan, on_progress=say)

    grid = train([StudentSpec(architecture=a, k=K, lr=r) for a in ARCHITECTURES for r in RATES])
    errors = grid_errors(grid)
    best = {a: min(errors[a], key=errors[a].__getitem__) for a in ARCHITECTURES}
    print("best learning rates:", best, flush=True)
    run = train(
        [StudentSpec(architecture=a, k=K, seed=s, lr=best[a]) for a in ARCHITECTURES for s in SEEDS]
    )
    contexts = pack(evaluation_documents(run.recipe.text, run.recipe.seed), tokenizer)
    found = evaluate(
        model,
        run.layers,
        contexts,
        tokens=int(flags.evaluation_tokens),
        bos_token_id=tokenizer.bos_token_id,
    )
    site = next(iter(run.layers))
    names = {a: [e.name for e in found.layers if e.architecture == a] for a in ARCHITECTURES}
    result = {
        "what": __doc__.splitlines()[0],
        "date": dt.date.today().isoformat(),
        "machine": machine(),
        "seconds": time.time() - started,
        "model": BUNDLED[flags.arch],
        "recipe": run.recipe.to_dict(),
        "versions": run.record["versions"],
        "grid_nmse": errors,
        "best_learning_rate": best,
        "summary": {a: summary(found.to_dict(), a) for a in ARCHITECTURES},
        "mxd_minus_other": {
            a: {
                figure: found.compare(site, names["mxd"], names[a], figure)._asdict()
                for figure in ("nmse", "delta")
            }
            for a in ARCHITECTURES[1:]
        },
        "evaluation": found.to_dict(),
        "data": run.record["data"],
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"compare-{flags.arch}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)


def recipe(specs: list[StudentSpec], tokens: int, batch_tokens: int) -> Recipe:
    """The recipe for short runs on the standard library, a tenth of its files held out."""
    text = TextRecipe(source=PYTHON_STDLIB, holdout=0.1)
    made = named_recipe("small", text, layers=(LAYER,), students=tuple(specs), tokens=tokens)
    made = changed(made, optimizer={"batch_tokens": batch_tokens})
    return replace(made, layer=LayerRecipe(expansion=32), log_every=12)


def grid_errors(run: Run) -> dict[str, dict[float, float]]:
    """Error on the last tenth of the training text, by architecture and learning rate."""
    errors: dict[str, dict[float, float]] = {}
    for layer in next(iter(run.layers.values())).values():
        training = layer.provenance.training
        by_rate = errors.setdefault(layer.config.architecture, {})
        by_rate[training["lr"]] = training["nmse_last_tenth"]
    return errors


def summary(document: dict[str, object], architecture: str) -> dict[str, object]:
    """Mean over seeds of the figures that matter, and their standard deviation."""
    entries = [e for e in document["layers"] if e["architecture"] == architecture]
    keys = ("nmse", "static_nmse", "modulation_share", "delta_cross_entropy", "dead_fraction")
    keys += ("max_expert_frequency", "usage_entropy", "loss_recovered", "kl", "l0")
    found = {}
    for key in keys:
        values = [e[key] for e in entries if e[key] is not None]
        if values:
            tensor = torch.tensor(values, dtype=torch.float64)
            found[key] = {"mean": float(tensor.mean()), "sd": float(tensor.std())}
    return found


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def say(progress: object) -> None:
    """One line now and then."""
    if progress.rows[0]["step"] % 96 == 0:
        print(f"{progress.tokens:,} tokens, {progress.seconds:.0f} s", flush=True)


def show(result: dict[str, object]) -> None:
    """The tables of docs/results.md."""
    print("Grid: error on the last tenth of the training text, one seed\n")
    rates = list(next(iter(result["grid_nmse"].values())))
    print("| architecture | " + " | ".join(rates_of(rates)) + " |")
    print("| --- |" + " --- |" * len(rates))
    for name, errors in result["grid_nmse"].items():
        print(f"| {name} | " + " | ".join(f"{errors[rate]:.4f}" for rate in rates) + " |")
    print("\nThree seeds, mean ± standard deviation, on held-out files\n")
    print("| architecture | lr | NMSE | static NMSE | modulation share | Δ cross-entropy | dead |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, figures in result["summary"].items():
        cells = [name, f"{result['best_learning_rate'][name]:g}"]
        for key in (
            "nmse",
            "static_nmse",
            "modulation_share",
            "delta_cross_entropy",
            "dead_fraction",
        ):
            value = figures.get(key)
            cells.append("–" if value is None else f"{value['mean']:.4f} ± {value['sd']:.4f}")
        print("| " + " | ".join(cells) + " |")
    print("\nMxD minus other, mean over seeds, ± 1.96 standard errors paired by document:")
    for name, figures in result["mxd_minus_other"].items():
        shown = [
            f"{figure} {value['mean']:+.4f} ± {1.96 * value['standard_error']:.4f}"
            for figure, value in figures.items()
        ]
        print(f"  {name}: {', '.join(shown)}")


def rates_of(rates: list[float | str]) -> list[str]:
    """Learning rates as text, whether they come from memory or from JSON."""
    return [f"{float(rate):g}" for rate in rates]


if __name__ == "__main__":
    main()
