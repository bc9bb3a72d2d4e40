"""The page of the study: its tables from the runs' JSON, its pictures from the report."""

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t

NAMES = {
    "mxd": "MxD",
    "transcoder": "transcoder",
    "skip_transcoder": "skip transcoder",
    "topk_autoencoder": "TopK SAE",
    "mlp_transcoder": "*control:* MLP + transcoder",
    "dense_mlp": "*control:* dense MLP",
}
TASKS = ("ag_news", "code_language", "pos_tags")


def summarise(work: Path, models: Sequence[str], record: dict[str, Any], out: Path) -> None:
    """Write README.md with every table, one folder of pictures, and the tables as CSV."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [_head(record)]
    for model in models:
        parts += [f"## {model}", *_model(work / "runs" / model)]
        parts += _pictures(work / "reports" / model, model, out)
    parts.append(_commands(record))
    (out / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n", "utf-8")
    shutil.copy(work / "study.json", out / "study.json")


def _head(record: dict[str, Any]) -> str:
    machine = record["machine"]
    return f"""# The whole evaluation on small models

Made by `make study`: {record["core_minutes"]} core-minutes, two verbs at a time, on {machine["cores"]} cores ({machine["cpu"]};
torch {machine["torch"]}, no GPU). What each figure means: [evaluation](../evaluation.md),
[probing](../probing.md), [steering](../steering.md), [editing](../editing.md). ± is a 95 % interval
over three seeds (Student's t) where several seeds were trained, else over documents, texts or units,
as the header says. The layers saw few tokens (150 to 250 thousand): these tables show that the whole
evaluation works and what it says of short runs, not what is true of long ones."""


def _model(run: Path) -> Iterable[str]:
    held_out = _read(run / "eval" / "held-out.json")
    yield from _frontier(held_out)
    yield from _variants(held_out)
    yield from _elsewhere(run, held_out)
    yield from _probing(run)
    yield from _editing(run)
    yield from _steering(run)
    yield from _doctor(run)


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    assert isinstance(found, dict)
    return found


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _over_seeds(values: Sequence[float], digits: int = 3, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if len(values) < 2:
        return f"{mean(values):{sign}.{digits}f}"
    half = float(student_t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):{sign}.{digits}f} ± {half:.{digits}f}"


def _variant(layer: dict[str, Any]) -> str:
    return str(layer["name"]).partition(f"-s{layer['seed']}")[2].lstrip("-")


def _frontier(held_out: dict[str, Any]) -> Iterable[str]:
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for layer in held_out["layers"]:
        if not _variant(layer):
            groups[layer["architecture"], layer["k"] or 0].append(layer)
    rows = []
    for (architecture, k), layers in sorted(
        groups.items(), key=lambda one: (list(NAMES).index(one[0][0]), one[0][1])
    ):
        static = [one["static_nmse"] for one in layers if one["static_nmse"] is not None]
        dead = [one["dead_fraction"] for one in layers if one["dead_fraction"] is not None]
        rows.append([
            NAMES[architecture], str(k or "–"), f"{layers[0]['active_parameters']:,}",
            _over_seeds([one["nmse"] for one in layers]),
            f"{mean(static):.2f}" if static else "–",
            _over_seeds([one["delta_cross_entropy"] for one in layers], 4, signed=True),
            f"{mean(one['delta_cross_entropy_se'] for one in layers) * 1.96:.4f}",
            f"{mean(one['loss_recovered'] for one in layers):.1%}",
            f"{mean(dead):.0%}" if dead else "–",
        ])  # fmt: skip
    yield (
        f"### Frontier\n\nCross-entropy of the base model {held_out['base_cross_entropy']:.4f} nats "
        f"per token, with the MLP's output at zero {held_out['zero_ablation_cross_entropy']:.4f}, at "
        f"its mean {held_out['mean_ablation_cross_entropy']:.4f}; {held_out['tokens']:,} held-out "
        "tokens. The sixth column's interval is over seeds, the seventh is the half-width over "
        "documents for one layer."
    )
    header = ["", "K", "active parameters", "NMSE", "static NMSE", "Δ cross-entropy"]
    yield _table([*header, "± by document", "recovered", "dead"], rows)


def _variants(held_out: dict[str, Any]) -> Iterable[str]:
    changed = defaultdict(list)
    for layer in held_out["layers"]:
        if _variant(layer):
            changed[_variant(layer)].append(layer)
    if not changed:
        return
    first = next(iter(changed.values()))[0]
    base = [
        one for one in held_out["layers"]
        if not _variant(one) and (one["architecture"], one["k"]) == ("mxd", first["k"])
    ]  # fmt: skip
    rows = [
        [name, f"{layers[0]['parameters']:,}", _over_seeds([one["nmse"] for one in layers]),
         f"{mean(one['static_nmse'] for one in layers):.2f}",
         _over_seeds([one["delta_cross_entropy"] for one in layers], 4, signed=True),
         f"{mean(one['dead_fraction'] for one in layers):.0%}"]
        for name, layers in {"base line": base, **changed}.items()
    ]  # fmt: skip
    yield f"### Ablations of the MxD at K = {first['k']}"
    yield _table(["", "parameters", "NMSE", "static NMSE", "Δ cross-entropy", "dead"], rows)


def _elsewhere(run: Path, held_out: dict[str, Any]) -> Iterable[str]:
    texts = [_read(path) for path in sorted((run / "eval").glob("text-*.json"))]
    if not texts:
        return
    names = [layer["name"] for layer in texts[0]["layers"]]
    columns = [held_out, *texts]
    rows = []
    for name in names:
        row = [name]
        for text in columns:
            layer = next(one for one in text["layers"] if one["name"] == name)
            row.append(
                f"{layer['nmse']:.3f}; {layer['delta_cross_entropy']:+.4f} ± "
                f"{1.96 * layer['delta_cross_entropy_se']:.4f}"
            )
        rows.append(row)
    yield "### Out of distribution: NMSE; Δ cross-entropy ± 95 % by document"
    header = ["held out", *(Path(text["text"]).name.partition(".")[0] for text in texts)]
    yield _table(["", *header], rows)


def _probing(run: Path) -> Iterable[str]:
    yield "### Sparse probing: mean F1 over classes"
    rows = []
    for task in TASKS:
        for layer in _read(run / "eval" / f"probe-{task}.json")["layers"]:
            low, high = layer["f1_mean_ci"]
            by_k = layer["f1_by_k"]
            rows.append([
                task, NAMES[layer["architecture"]], f"**{layer['f1_mean']:.3f}** [{low:.3f}, {high:.3f}]",
                f"{layer['paper_f1_mean']:.3f}", *(f"{by_k[k]:.3f}" for k in ("2", "5", "16", "all")),
                f"{layer['random_f1']:.3f}", f"{layer['neuron_f1']:.3f}", f"{layer['dense_f1']:.3f}",
                str(layer["live_units"]),
            ])  # fmt: skip
    header = ["task", "", "best unit, chosen on training data", "chosen on test data (paper)"]
    header += ["2 units", "5", "16", "all", "best of random units", "best input dimension"]
    yield _table([*header, "whole input", "live units"], rows)


def _editing(run: Path) -> Iterable[str]:
    for path in sorted((run / "eval").glob("editing-*.json")):
        study = _read(path)
        target, keep = (
            Path(study[side]["text"]).name.partition(".")[0] for side in ("target", "keep")
        )
        rows = []
        for layer in study["layers"]:
            for edit in _edits(layer):
                rows.append([
                    NAMES[layer["architecture"]], str(edit["ranking"]), str(edit["m"]),
                    _rise(edit, "target_rise"), _rise(edit, "keep_rise"), _rise(edit, "selectivity"),
                ])  # fmt: skip
            zero = layer["ablation"]["zero"]
            rows.append([
                NAMES[layer["architecture"]], "whole layer at zero", "–", _rise(zero, "target_rise"),
                _rise(zero, "keep_rise"), _rise(zero, "selectivity"),
            ])  # fmt: skip
        yield (
            f"### Editing: take {target} away, keep {keep}\n\nRise of the cross-entropy in nats per "
            "token on halves of the texts that units were not ranked on, ± 95 % by document; random "
            "controls are means over draws."
        )
        yield _table(["", "units chosen by", "m", target, keep, "selectivity"], rows)


def _edits(layer: dict[str, Any]) -> Iterable[dict[str, Any]]:
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for edit in layer["edits"]:
        if edit["m"] in (1, 16, 64):
            groups[edit["ranking"], edit["m"]].append(edit)
    for (ranking, m), edits in groups.items():
        figures = ("target_rise", "keep_rise", "selectivity")
        yield {
            "ranking": ranking,
            "m": m,
            **{key: mean(one[key] for one in edits) for key in figures},
            **{f"{key}_se": edits[0][f"{key}_se"] if len(edits) == 1 else None for key in figures},
        }


def _rise(edit: dict[str, Any], key: str) -> str:
    error = edit.get(f"{key}_se")
    return f"{edit[key]:+.4f}" + ("" if error is None else f" ± {1.96 * error:.4f}")


def _steering(run: Path) -> Iterable[str]:
    study = _read(run / "eval" / "steering.json")
    rows = []
    for layer in study["layers"]:
        rows.append([NAMES[layer["architecture"]], "none", *_scores(layer["unsteered"])])
        for strength in layer["strengths"]:
            by_maximum = strength["unit_of"] == "max"
            added = f"{strength['strength']:g}{'x' if by_maximum else ''}"
            rows.append([NAMES[layer["architecture"]], added, *_scores(strength)])
            control = strength.get("random_direction")
            if control:
                rows.append(["random direction", added, *_scores(control)])
    yield (
        "### Steering, offline judge\n\nMean over units ± 1.96 standard errors; the offline judge is "
        "weaker than a language model ([why](../steering.md)). Strength `4x` is four times a unit's "
        "own maximum, `100` the paper's constant."
    )
    yield _table(["", "strength", "concept", "fluency", "distinct-2"], rows)


def _scores(swept: dict[str, Any]) -> list[str]:
    judged = swept["judges"]["offline"]

    def with_error(key: str) -> str:
        value, error = judged[key], judged[f"{key}_se"]
        if value is None:
            return "–"
        return f"{value:.3f}" + ("" if error is None else f" ± {1.96 * error:.3f}")

    return [with_error("concept"), with_error("fluency"), f"{swept['distinct_2']:.2f}"]


def _doctor(run: Path) -> Iterable[str]:
    findings = _read(run / "eval" / "doctor.json").get("layers") or []
    counts: dict[str, int] = defaultdict(int)
    for layer in findings:
        for finding in layer.get("findings") or []:
            counts[finding["signature"]] += 1
    if findings:
        said = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "nothing"
        yield f"### Doctor\n\nOf {len(findings)} layers, `mxd doctor` finds: {said}."


def _pictures(report: Path, model: str, out: Path) -> Iterable[str]:
    """Copy a report's pictures and tables; show the pictures."""
    folder = out / model
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for table in sorted((report / "tables").glob("*.csv")):
        content = table.read_text(encoding="utf-8").replace(f"{report.parents[1]}/", "")
        (folder / table.name).write_text(content, encoding="utf-8")
    yield f"### Pictures\n\nTables in full precision, and these pictures, are in [{model}/]({model})."
    for picture in sorted((report / "figures").glob("*.png")):
        shutil.copy(picture, folder / picture.name)
        yield f"![{picture.stem}]({model}/{picture.name})"


def _commands(record: dict[str, Any]) -> str:
    lines = "\n".join(
        f"{one['seconds']:6.0f} s  {one['command']}"
        for part in record["models"].values()
        for one in part
    )
    return f"## Commands\n\nEach on one core, two at a time:\n\n```\n{lines}\n```"
