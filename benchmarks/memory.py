"""Resident memory while training, to see whether it stays flat.

    python benchmarks/memory.py --tokens 1e7 --out benchmarks/results

Trains a small MxD and a transcoder on the bundled GPT-2's activations (Linux: reads /proc).
"""

import argparse
import datetime as dt
import json
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mxd.data import PYTHON_STDLIB
from mxd.demo import bundled_model
from mxd.host import load_model, load_tokenizer
from mxd.training import LayerRecipe, StudentSpec, TextRecipe, fit, named_recipe


def main() -> None:
    """Train, note the memory now and then, write a JSON file and a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=float, default=1e7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    flags = parser.parse_args()
    path = bundled_model("gpt2")
    model, tokenizer = load_model(path), load_tokenizer(path)
    recipe = named_recipe(
        "small",
        TextRecipe(source=PYTHON_STDLIB),
        layers=(3,),
        tokens=int(flags.tokens),
        students=(
            StudentSpec(architecture="mxd", k=8),
            StudentSpec(architecture="transcoder", k=8),
        ),
        layer=LayerRecipe(expansion=6),
        log_every=25,
    )
    points: list[tuple[int, float]] = []
    run = fit(
        model,
        tokenizer,
        recipe,
        on_progress=lambda progress: points.append((progress.tokens, resident())),
    )
    flags.out.mkdir(parents=True, exist_ok=True)
    half = [mb for tokens, mb in points if tokens > flags.tokens / 2]
    result = {
        "what": __doc__.splitlines()[0],
        "date": dt.date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "versions": run.record["versions"],
        "tokens_and_megabytes": points,
        "growth_over_second_half_megabytes": half[-1] - half[0],
    }
    (flags.out / "memory.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    draw(points, flags.out / "memory.png")
    print(f"after 10 %: {points[len(points) // 10][1]:.0f} MB, at the end: {points[-1][1]:.0f} MB")


def resident() -> float:
    """Resident memory of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def draw(points: list[tuple[int, float]], path: Path) -> None:
    """Memory against tokens, from zero."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([tokens / 1e6 for tokens, _ in points], [mb for _, mb in points])
    axes.set(xlabel="tokens trained on (million)", ylabel="resident memory (MB)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
