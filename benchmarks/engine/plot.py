"""Draw the seconds of a step against N, everybody in one picture, both axes logarithmic.

python -m benchmarks.engine.plot [--result FILE] [--out docs/images/engine.png]
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.cells import TITLES
from benchmarks.engine.result import default_path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

OUT = Path(__file__).parents[2] / "docs" / "images" / "engine.png"
LOOKS = {  # colours of Okabe and Ito, which colour-blind readers can tell apart
    "mxd": ("#D55E00", "o", "-"),
    "obvious": ("#000000", "s", "--"),
    "sparsify": ("#0072B2", "^", "-"),
    "saelens": ("#009E73", "D", ":"),
    "dictlearn": ("#CC79A7", "v", "-."),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the result, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--result", type=Path, help="JSON file (default: this machine's)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--dtype", choices=("float32", "bf16"), default="float32")
    flags = parser.parse_args(arguments)
    document = json.loads((flags.result or default_path()).read_text(encoding="utf-8"))
    cells = [c for c in document["cells"] if c["part"] == "grid" and c["dtype"] == flags.dtype]
    if not cells:
        parser.error(f"the result has no grid in {flags.dtype}; measure it without --only steps")
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    draw(cells, document["machine"], flags.out)
    print(f"drawn to {flags.out}")


def draw(cells: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], path: Path) -> None:
    """A row of panels for each architecture, a column for each K."""
    architectures = list(dict.fromkeys(cell["architecture"] for cell in cells))
    ks = sorted({cell["k"] for cell in cells})
    figure = Figure(
        figsize=(3.3 * len(ks) + 0.4, 2.9 * len(architectures) + 1), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(architectures), len(ks), sharex=True, sharey=True, squeeze=False)
    for row, architecture in zip(panels, architectures, strict=True):
        for axes, k in zip(row, ks, strict=True):
            chosen = [c for c in cells if c["architecture"] == architecture and c["k"] == k]
            _panel(axes, chosen)
            axes.set_title(f"{'MxD' if architecture == 'mxd' else architecture}, K = {k}", size=10)
        row[0].set_ylabel("seconds a step")
    for axes in panels[-1]:
        axes.set_xlabel("N")
    lines = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
    order = [title for title in TITLES.values() if title in lines]
    figure.legend(
        [lines[title] for title in order], order,
        loc="outside lower center", ncols=len(order), frameon=False,
    )  # fmt: skip
    first = cells[0]
    what = machine.get("accelerator") or f"{machine['processor']}, {machine['threads']} threads"
    figure.suptitle(
        f"A training step: d = {first['d_in']}, {first['tokens']} tokens, {first['dtype']}, {what}",
        size=11,
    )
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, cells: Sequence[Mapping[str, Any]]) -> None:
    for name, (colour, marker, dashes) in LOOKS.items():
        points = [
            (cell["n"], cell["results"][name])
            for cell in cells
            if "median" in cell["results"].get(name, {})
        ]
        if not points:
            continue
        points.sort(key=lambda point: point[0])
        ns = [n for n, _ in points]
        axes.plot(
            ns, [found["median"] for _, found in points],
            color=colour, marker=marker, linestyle=dashes, markersize=4, label=TITLES[name],
        )  # fmt: skip
        low, high = ([found[q] for _, found in points] for q in ("q1", "q3"))
        axes.fill_between(ns, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sorted({cell["n"] for cell in cells}))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda n, _: f"{n / 1024:g} k" if n >= 1024 else f"{n:g}")
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{s:g}"))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
