"""The tables of docs/scaling.md, from what `mxd plan` says of models from 7 B to 405 B.

    python benchmarks/scaling.py        # a minute or two; no weights, no GPU

Writes `benchmarks/results/scaling.json` and the tables between the page's markers. Nothing in them
is measured: rates are those of NVIDIA's data sheets, and the distance from them is an assumption.
"""

import argparse
import contextlib
import io
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import transformers

from mxd.cli.main import run
from mxd.planning import gigabytes

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- scaling:begin -->", "<!-- scaling:end -->"
MODELS = {
    "7B": (4096, 11008, 32, 32, 32, 32_000),
    "70B": (8192, 28672, 80, 64, 8, 128_256),
    "405B": (16384, 53248, 126, 128, 8, 128_256),
}
"""Llama 2 7B, Llama 3.1 70B and 405B: d, H, blocks, heads, key and value heads, vocabulary."""
DEVICES = (1, 8, 64, 512)
WORK = {
    "one layer": (),
    "every block": ("--layers", "all"),
}
LARGE = ("--batch-tokens", "65536", "--buffer-contexts", "8192")
HOST = ("--host-memory", "2TB")
"""That of a DGX H100 or H200, from its data sheet; its eight processes share it."""
SMALL_EXPANSION = ("--expansion", "8")
"""Transcoders 8 d wide rather than the paper's 32 d, as for every block of a large model."""
PARTS = {
    "harvest": "language model",
    "gate": "gates",
    "rows": "rows, loss",
    "dense": "dense branches",
    "optimizer": "AdamW",
    "buffer": "buffer",
    "wires": "communication",
}


def main() -> None:
    """Plan every case, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="h200", help="kind of device")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "scaling.md")
    parser.add_argument("--page-only", action="store_true", help="write the page from the JSON")
    flags = parser.parse_args()
    path = flags.out / "scaling.json"
    if not flags.page_only:
        cases = list(every_case(flags.kind))
        document = {"what": __doc__.splitlines()[0], "kind": flags.kind, "cases": cases}
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_page(json.loads(path.read_text(encoding="utf-8")), flags.page)
    print(f"wrote {path} and {flags.page}")


def every_case(kind: str) -> Any:
    """Every model at every number of devices, for one layer and for all blocks."""
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            save_config(name, Path(folder) / name)
        for work, layers in WORK.items():
            for name in MODELS:
                for devices in DEVICES:
                    more = (*layers, *(SMALL_EXPANSION if layers else ()))
                    for batch in ((), LARGE):
                        yield case(Path(folder), name, work, kind, devices, (*more, *batch))


def save_config(name: str, folder: Path) -> None:
    """A folder with a config.json of a model's shape, and nothing else."""
    width, hidden, blocks, heads, kv_heads, vocabulary = MODELS[name]
    transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)


def case(
    folder: Path, name: str, work: str, kind: str, devices: int, more: tuple[str, ...]
) -> dict[str, Any]:
    """What the verb says of one case; the figures that the page shows."""
    answer = folder / "plan.json"
    command = ["plan", str(folder / name), "--device-kind", kind, "--devices", str(devices)]
    command += [*HOST, *more]
    with contextlib.redirect_stdout(io.StringIO()):
        code = run([*command, "--json", str(answer)])
    if code:
        raise SystemExit(f"{name} on {devices}: exit code {code}")
    plan = json.loads(answer.read_text(encoding="utf-8"))
    shown = ["mxd", "plan", f"{name}/", *command[2:]]
    entry = {
        "model": name,
        "work": work,
        "devices": devices,
        "command": shlex.join(shown),
        "model_parameters": plan["model"]["parameters"],
        "layers": sum(one["count"] for one in plan["students"]),
        "layer_parameters": plan["students"][0]["parameters"],
    }
    keys = ("layout", "per_token", "step", "traffic", "tokens_per_second", "hours", "device_hours")
    memory = {
        key: plan["memory"][key]
        for key in (
            "device_peak_bytes",
            "device_peak_phase",
            "host_peak_bytes",
            "host_peak_phase",
            "node_bytes",
        )
    }
    print(entry["command"], "->", plan["layout"]["reason"], flush=True)
    batch = plan["training"]["batch_tokens"]
    return {**entry, "batch_tokens": batch, "memory": memory, **{key: plan[key] for key in keys}}


def write_page(found: dict[str, Any], path: Path) -> None:
    """Replace what is between the markers."""
    page = path.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{tables(found['cases'])}\n{END}{after}", encoding="utf-8")


def tables(cases: list[dict[str, Any]]) -> str:
    """What a layer is, then a table of layouts and one of volumes for each kind of work."""
    sections = ["### The layers", table(*layers(cases))]
    for work in WORK:
        some = [one for one in cases if one["work"] == work]
        sections += [f"### {work.capitalize()}: layout and time", table(*layouts(some))]
        sections += [f"### {work.capitalize()}: what each process sends in a step",
                     table(*volumes(some))]  # fmt: skip
    return "\n\n".join(sections)


def layers(cases: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Sizes and operations of one layer."""
    rows, seen = [], set()
    for one in cases:
        key = (one["model"], one["work"])
        if key in seen:
            continue
        seen.add(key)
        token = one["per_token"]
        rows.append(
            [
                one["model"], one["work"], f"{one['model_parameters'] / 1e9:.2f} B",
                str(one["layers"]), f"{one['layer_parameters'] / 1e9:.3g} B",
                gigabytes(16 * one["layer_parameters"] * one["layers"]),
                f"{figures(token['harvest_flops'] / 1e9)} G",
                f"{figures(token['layers_flops'] / 1e9)} G",
            ]
        )  # fmt: skip
    head = ["model", "work", "parameters", "layers", "parameters of each",
            "weights, gradients, moments of all", "FLOP/token, language model",
            "FLOP/token, layers"]  # fmt: skip
    return head, rows


def layouts(cases: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What is recommended, and what takes the time."""
    rows = []
    for one in cases:
        layout, memory = one["layout"], one["memory"]
        mesh = "×".join(str(layout[key]) for key in ("data", "students", "experts"))
        step = one["step"]["expected_seconds"]
        slowest = max(PARTS, key=lambda name: step[name])
        cells = ["–"] * 5
        if layout["fits"]:
            cells = [
                figures(step["total"] * 1e3), f"{one['tokens_per_second']:,.0f}",
                figures(one["hours"]), f"{one['device_hours']:,.0f}",
                f"{PARTS[slowest]} {step[slowest] / step['total']:.0%}",
            ]  # fmt: skip
        rows.append(
            [
                one["model"], str(one["devices"]), f"{one['batch_tokens']:,}",
                mesh if layout["fits"] else "does not fit", str(layout["model_devices"]),
                gigabytes(memory["device_peak_bytes"]), gigabytes(memory["host_peak_bytes"]),
                gigabytes(memory["node_bytes"]),
                *cells,
            ]
        )  # fmt: skip
    head = ["model", "devices", "tokens a step", "data×students×experts", "model over",
            "peak, device", "peak, host, a process", "peak, host, a node", "ms a step",
            "tokens/s", "hours for 480 M", "device hours", "longest part"]  # fmt: skip
    return head, rows


def volumes(cases: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Bytes sent by the busiest process."""
    keys = ("rows", "candidates", "sums", "gradients", "replicated", "model", "total")
    rows = [
        [
            one["model"], str(one["devices"]), f"{one['batch_tokens']:,}",
            *(gigabytes(one["traffic"][key]) if one["traffic"][key] else "–" for key in keys),
        ]
        for one in cases
        if one["layout"]["fits"] and one["devices"] > 1
    ]  # fmt: skip
    head = ["model", "devices", "tokens a step", "activations", "candidates", "partial sums",
            "gradients, units", "gradients, dense", "language model", "all"]  # fmt: skip
    return head, rows


def figures(value: float) -> str:
    """Three figures, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
