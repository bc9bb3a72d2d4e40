"""Everything that a run's folder shows of an evaluation: figures and report.html."""

import json
import logging
from pathlib import Path
from typing import Any

from mxd.report.figures import draw_activity, draw_frontier, draw_training
from mxd.report.html import write_report

logger = logging.getLogger(__name__)


def publish(
    folder: Path, *, title: str, record: dict[str, Any], evaluation: dict[str, Any], command: str
) -> Path:
    """Draw the figures of a run and write its report.

    Args:
        folder: the run's folder; units worth seeing are taken from its eval/units.json, where it
            has one: `{"student", "units", "steered"}`.
        title: title of the report.
        record: content of run.json.
        evaluation: the document of `mxd eval --json`.
        command: the command that makes the figures.

    Returns:
        The path of report.html.
    """
    shown = _read(folder / "eval" / "units.json")
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    rows = _rows(folder / "metrics.jsonl")
    model = (record.get("base_model") or {}).get("name")
    model = None if model is None else Path(model).name
    trained = (record.get("data") or {}).get("tokens_trained")
    drawn = [
        path
        for draw, name in ((draw_frontier, "frontier"), (draw_activity, "activity"))
        for path in draw(evaluation, figures / name, model=model, tokens_trained=trained)
    ]
    if rows:
        drawn += draw_training(rows, figures / "training", model=model)
    return write_report(
        folder / "report.html",
        title=title,
        run=record,
        evaluation=evaluation,
        pictures=[path for path in drawn if path.suffix == ".png"],
        units=shown.get("units") or (),
        units_of=shown.get("student"),
        steered=shown.get("steered"),
        notes=notes(folder, record),
        commands={"frontier": command, "activity": command, "training": command},
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def notes(folder: Path, record: dict[str, Any]) -> list[str]:
    """What a reader must know before trusting the figures."""
    falling, smallest = [], None
    for entry in record.get("students") or []:
        path = folder / "layers" / entry["site"] / entry["name"] / "config.json"
        training = json.loads(path.read_text(encoding="utf-8")).get("training") or {}
        smallest = training.get("tokens", smallest)
        if training.get("still_falling"):
            falling.append(entry["name"])
    found = []
    if falling:
        found.append(
            f"After {smallest:,} tokens the error of these students was still falling (by more "
            f"than 2 % over the last tenth of the run): {', '.join(falling)}."
        )
    if record.get("complete") is False:
        found.append("The run was interrupted before its token budget was used.")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [row for line in lines for row in _row(path, line)]


def _row(path: Path, line: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line)] if line else []
    except ValueError:  # a run that was cut off ends in half a line
        logger.warning("%s has a damaged line: it is left out of the curves", path)
        return []
