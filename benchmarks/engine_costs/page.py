"""The tables of docs/performance.md, from the file that `engine_costs.py` writes."""

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- costs:begin -->", "<!-- costs:end -->"
GROUPS = {
    "gate_forward": "gate: product and top-k",
    "combine_forward": "sum of K rows",
    "dense_forward": "dense branch or skip",
    "loss": "output and loss, both ways",
    "combine_backward": "sum of K rows, backward",
    "gate_backward": "gate, backward",
    "dense_backward": "dense branch or skip, backward",
    "optimizer": "AdamW",
    "step": "**whole step**",
}
LABELS = {"mxd": "MxD", "transcoder": "transcoder", "skip_transcoder": "skip transcoder"}


def write_page(found: dict[str, Any], path: Path) -> None:
    """Replace what is between the markers.

    Raises:
        ValueError: the page lacks one of the markers.
    """
    page = path.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"got {path}, expected {BEGIN} and {END} in it once each")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{tables(found)}\n{END}{after}", encoding="utf-8")


def tables(found: dict[str, Any]) -> str:
    """All tables, or for a part that was not measured the command that does it."""
    machine, parts = found["machine"], found["parts"]
    sections = [f"Measured on {machine['processor']}, {machine['threads']} threads."]
    makers = {
        "ceilings": ("Ceilings", ceilings),
        "steps": ("A training step", steps),
        "inference": ("Inference", inference),
        "accuracy": ("Accuracy", accuracy),
        "memory": ("Memory against N", memory),
    }
    for name, (title, make) in makers.items():
        sections.append(f"### {title}")
        if name not in parts:
            sections.append(f"Not measured yet: `python benchmarks/engine_costs.py --only {name}`.")
            continue
        part = parts[name]
        versions = part["versions"]
        sections.append(f"{part['date']}, torch {versions['torch']}, {part['threads']} threads.")
        sections += make(part["result"])
    return "\n\n".join(sections)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ceilings(result: dict[str, Any]) -> list[str]:
    """Rates of matrix products and of memory."""
    rows = [
        [name.replace("_", " "), f"{rate:.1f} GFLOP/s"] for name, rate in result["gflops"].items()
    ]
    rows += [
        [f"memory, {name.replace('_', ' ')}", f"{rate:.1f} GB/s"]
        for name, rate in result["gigabytes_per_second"].items()
    ]
    compared = result["gigavalues_compared_per_second"]
    rows.append(["maximum of values in cache", f"{compared:.1f} G values/s"])
    return [table(["what", "best rate"], rows)]


def steps(result: dict[str, Any]) -> list[str]:
    """Measured time, floor and distance of each part, then the floors of GPUs."""
    found = []
    for architecture, entry in result.items():
        for precision, cell in entry["precisions"].items():
            shape = entry["shape"]
            found.append(
                f"{LABELS[architecture]}, {precision}: N = {shape['units']:,}, K = {shape['k']}, "
                f"{shape['tokens']:,} tokens, milliseconds."
            )
            rows = [
                [
                    GROUPS[name],
                    milliseconds(times["median"]),
                    f"{milliseconds(times['lowest'])} to {milliseconds(times['highest'])}",
                    milliseconds(cell["floor_seconds"][name]),
                    f"{cell['measured_over_floor'][name]:.2f}",
                ]
                for name, times in sorted(cell["seconds"].items(), key=_place)
            ]
            found.append(table(["part", "median", "range", "floor", "median ÷ floor"], rows))
    found.append(
        "The same steps' floors from data sheets, in milliseconds. Nothing in this table was "
        "measured."
    )
    rows = [
        [LABELS[architecture], device, precision, milliseconds(floors["step"])]
        for architecture, entry in result.items()
        for device, by_precision in entry["elsewhere"].items()
        for precision, floors in by_precision.items()
    ]
    return [*found, table(["layer", "device", "precision", "floor of a step"], rows)]


def _place(item: tuple[str, Any]) -> int:
    return list(GROUPS).index(item[0])


def inference(result: list[dict[str, Any]]) -> list[str]:
    """Time per position of `generate`, and of one layer."""
    rows = [
        [
            entry["model"],
            str(entry["batch"]),
            name.replace("_", " "),
            milliseconds(times["median"]),
            milliseconds(times["median"] / entry["batch"]),
            "1" if name == "base" else f"{entry['ratio_to_base'][name]:.2f}",
        ]
        for entry in result
        for name, times in entry["seconds_per_step"].items()
    ]
    heads = ["model", "batch", "in place", "ms per position", "ms per token", "÷ base"]
    layers = [
        [
            f"{entry['model']}, batch {entry['batch']}",
            LABELS[architecture],
            *(
                milliseconds(cost["seconds"][part]["median"]) if part in cost["seconds"] else "–"
                for part in ("layer", "gate", "combine", "dense_branch")
            ),
            f"{cost['weight_bytes_for_one_token'] / 1e6:.1f}",
            "–" if cost["floor_seconds"] is None else milliseconds(cost["floor_seconds"]),
        ]
        for entry in result
        for architecture, cost in entry["layer"].items()
    ]
    more = ["where", "layer", "whole, ms", "gate", "sum of rows", "dense branch"]
    more += ["weights read for one token, MB", "these at memory's bandwidth, ms"]
    return [table(heads, rows), "One layer alone, one position:", table(more, layers)]


def accuracy(result: dict[str, Any]) -> list[str]:
    """Relative difference of the held-out NMSE from the plain kernels."""
    rows = []
    for comparison in result["comparisons"]:
        for way, by_architecture in comparison["from_plain"].items():
            for architecture, cell in by_architecture.items():
                noise = comparison["relative_spread_of_seeds"][architecture]
                errors = comparison["nmse"]["plain"][architecture].values()
                rows.append(
                    [
                        f"{comparison['tokens']:,}",
                        LABELS[architecture],
                        {"fast": "fast, float32", "bf16": "fast, bf16"}[way],
                        f"{sum(errors) / len(errors):.4f}",
                        f"{cell['relative_difference']:+.3%}",
                        "–" if noise is None else f"{noise:.2%}",
                        "yes" if cell["within_1_percent"] else "**no**",
                    ]
                )
    head = ["tokens", "layer", "kernels", "NMSE, plain float32", "difference", "spread of seeds"]
    line = (
        f"{result['model']}, block {result['layer']}, K = {result['k']}, seeds "
        f"{', '.join(map(str, result['seeds']))}, {result['evaluation_tokens']:,} held-out tokens."
    )
    shares = ", ".join(f"{share:.4%} in {name}" for name, share in result["recall"].items())
    chosen = f"Recall of the gate, against the choice in float64 at GPT-2's shape: {shares}."
    return [line, table([*head, "within 1 %"], rows), chosen]


def memory(result: list[dict[str, Any]]) -> list[str]:
    """Peak of a step beyond weights, gradients and moments."""
    rows = [
        [
            LABELS[entry["architecture"]],
            entry["implementation"],
            f"{entry['units']:,}",
            entry["skipped"] if "skipped" in entry else f"{entry['beyond_bytes'] / 1e6:,.0f} MB",
        ]
        for entry in result
    ]
    picture = "![Peak memory of a step against N](images/memory-against-n.png)"
    return [table(["layer", "kernels", "N", "peak beyond the three"], rows), picture]


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds with three figures."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
