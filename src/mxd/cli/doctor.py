"""`mxd doctor`: name what is wrong with a run's layers, what shows it, and what to do."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from mxd._json_files import json_object_or_none
from mxd.cli._measure import HELD_OUT, held_out_text, measure
from mxd.cli._options import options
from mxd.cli._paths import check_json_target, check_writable, write_json
from mxd.cli._places import place_flags
from mxd.cli._run import MODEL_OPTIONS, command_line, open_with_model
from mxd.cli._screen import _one_line, console
from mxd.cli._types import COUNT, with_config
from mxd.evaluation import Finding, diagnose
from mxd.training import Run, open_run, store_result

_STYLES = {"severe": "bold red", "warning": "yellow", "note": "cyan"}
_MAX_JSON_BYTES = 256 << 20
_NEEDED = {"nmse", "cross_entropy", "width", "dead_fraction", "static_nmse"}


@click.command("doctor")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--tokens", type=COUNT, default=20_000, show_default=True,
    help="Tokens of held-out text to measure on, where eval/ has no figures with geometry.",
)  # fmt: skip
@click.option(
    "--anew", is_flag=True, help="Measure anew, even where eval/ has figures of the held-out text."
)
@options(MODEL_OPTIONS)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="File for the findings."
)  # fmt: skip
@with_config
def doctor(run: Path, tokens: int, anew: bool, json_file: Path | None, **flags: Any) -> None:
    """Say of each layer of RUN whether it is healthy, and if not, what is wrong.

    Names the failure signatures that it finds (dead experts, rank collapse, a dense MLP in
    disguise, …), each with the figure that shows it, what that means, and the remedy. Uses the
    figures that `mxd eval` left, and else measures on a little held-out text. Findings are no
    error: the exit code stays 0.
    """
    check_json_target(json_file)
    screen = console()
    found = open_run(run)
    check_writable(run)
    evaluation = None if anew else stored_evaluation(found)
    figures = f"eval/{HELD_OUT}.json"
    if evaluation is None:
        figures = f"measured on at most {tokens} tokens"
        opened = open_with_model(run, **place_flags(flags))
        screen.print(f"Measuring on {tokens:,} tokens of held-out text …", markup=False)
        text = held_out_text(opened, tokens=tokens)
        evaluation = measure(opened, text, tokens=tokens, screen=screen)
    findings = diagnose(evaluation, _training(found))
    document = {
        "kind": "doctor",
        "command": command_line(),
        "figures": figures,
        "text": evaluation["text"],
        "tokens": evaluation["tokens"],
        "layers": [
            {
                "name": name,
                "site": site,
                "healthy": all(one.severity == "note" for one in of),
                "findings": [one.to_dict() for one in of],
            }
            for (site, name), of in findings.items()
        ],
    }
    store_result(found, document, name="doctor")
    write_json(json_file, document)
    _show(screen, findings, str(document["text"]), int(document["tokens"]))


def stored_evaluation(run: Run) -> dict[str, Any] | None:
    """The figures that `mxd eval` left of the held-out text, where they say all that is needed."""
    assert run.folder is not None
    path = run.folder / "eval" / f"{HELD_OUT}.json"
    document = json_object_or_none(path, _MAX_JSON_BYTES)
    if document is None or not isinstance(document.get("text"), str):
        return None
    if type(document.get("tokens")) is not int:
        return None
    parts = [document.get(key) for key in ("layers", "geometry", "specialisation", "sites")]
    if not all(isinstance(part, list) and all(_is_entry(one) for one in part) for part in parts):
        return None
    if not document["geometry"] and document["specialisation"]:
        return None  # it was left out
    layers = document["layers"]
    named = [(layer["site"], layer.get("name")) for layer in layers]
    known = [(site, name) for site, of in run.layers.items() for name in of]
    whole = all(set(layer) >= _NEEDED for layer in layers)
    return document if whole and sorted(map(str, named)) == sorted(map(str, known)) else None


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("site"), str)


def _training(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (site, name): layer.provenance.training
        for site, of in run.layers.items()
        for name, layer in of.items()
    }


def _show(
    screen: Console, findings: dict[tuple[str, str], list[Finding]], text: str, tokens: int
) -> None:
    screen.print(f"On {tokens:,} tokens ({_one_line(text)}):", markup=False)
    several = len({site for site, _ in findings}) > 1
    for (site, name), of in findings.items():
        line = Text(f"\n{_one_line(f'{name} at {site}' if several else name)}: ", style="bold")
        line.append(*_verdict(of))
        screen.print(line)
        for one in of:
            shown = Text(f"  {one.severity}  ", style=_STYLES[one.severity])
            shown.append(f"{one.signature.replace('_', ' ')}: {_one_line(one.detail)}", "bold")
            shown.append(f"\n      {one.explanation}\n      → {one.remedy}", "default")
            screen.print(shown)


def _verdict(findings: list[Finding]) -> tuple[str, str]:
    grave = [one for one in findings if one.severity != "note"]
    if not grave:
        return "healthy", "green"
    names = ", ".join(one.signature.replace("_", " ") for one in grave)
    return names, _STYLES[grave[0].severity]
