"""The texts that an evaluation is asked for, each with a name for its file, and their table."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxd._json_files import json_object_or_none
from mxd.cli._measure import HELD_OUT, EvaluationText, as_text, held_out_text
from mxd.cli._paths import lasting
from mxd.cli._run import Opened
from mxd.cli._screen import _one_line
from mxd.data import open_documents
from mxd.errors import UserError
from mxd.report import short_names
from mxd.training import first_documents

_MAX_JSON_BYTES = 256 << 20


def chosen_texts(opened: Opened, flags: dict[str, Any]) -> list[EvaluationText]:
    """The texts that a command line means, the held-out one first; each can be read.

    Args:
        opened: the run and its model.
        flags: `text` (several), `held_out`, `tokens`, `batch_contexts`, and what says how a text is
            to be read.

    Raises:
        UserError: a text that cannot be read, that holds too few tokens, or was trained on.
    """
    sources = list(dict.fromkeys(lasting(source) for source in flags["text"]))
    trained_on = opened.run.recipe.text
    if trained_on.source in sources and trained_on.eval_source is not None:
        raise UserError(
            f"got --text {trained_on.source}, which the run was trained on; leave --text out to "
            f"evaluate on {trained_on.eval_source}, or give another text"
        )
    others = [source for source in sources if source != trained_on.source]
    budget = {"tokens": flags["tokens"], "batch_contexts": flags["batch_contexts"]}
    found = []
    if not sources or flags["held_out"] or len(others) < len(sources):
        found.append(held_out_text(opened, **budget))
    names = {HELD_OUT}
    for source in others:
        name = _name(opened.folder, source, names)
        names.add(name)
        documents = first_documents(open_documents(source, _options(opened, flags)))
        found.append(as_text(opened, documents, name, source, **budget))
    return found


def _options(opened: Opened, flags: dict[str, Any]) -> Any:
    given = {
        "column": flags["text_column"],
        "doc_column": flags["doc_column"],
        "split": flags["text_split"],
    }
    return replace(
        opened.run.recipe.text.options,
        dataset_name=flags["text_name"],
        skip_damaged=flags["skip_damaged"] or opened.run.recipe.text.options.skip_damaged,
        **{name: value for name, value in given.items() if value is not None},
    )


def _name(folder: Path, source: str, taken: set[str]) -> str:
    """A file's name for a text, the same each time, and not that of another text."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).name).strip("-.") or "text"
    plain = name = f"text-{safe[:80]}"
    number = 2
    while name in taken or _is_of_another(folder / "eval" / f"{name}.json", source):
        name, number = f"{plain}-{number}", number + 1
    return name


def _is_of_another(path: Path, source: str) -> bool:
    stored = json_object_or_none(path, _MAX_JSON_BYTES)
    return stored is not None and stored.get("text") != source


def show_texts(screen: Console, documents: Sequence[dict[str, Any]]) -> None:
    """One table of layers by text: what each text costs."""
    table = Table(title="The same layers on other text", title_justify="left")
    for header in ("layer", "text", "NMSE", "base CE", "Δ CE ± 95 %", "recovered", "dead"):
        left = header in ("layer", "text")
        table.add_column(header, justify="left" if left else "right", overflow="fold")
    several_sites = len({layer["site"] for layer in documents[0]["layers"]}) > 1
    texts = short_names([document["text"] for document in documents])
    for place, first in enumerate(documents[0]["layers"]):
        name = f"{first['name']} at {first['site']}" if several_sites else first["name"]
        for number, document in enumerate(documents):
            cells = (texts[number], *_cells(document, document["layers"][place]))
            table.add_row(*(Text(_one_line(cell)) for cell in ("" if number else name, *cells)))
        table.add_section()
    screen.print(table)


def _cells(document: dict[str, Any], layer: dict[str, Any]) -> tuple[str, ...]:
    error = layer["delta_cross_entropy_se"]
    interval = "" if error is None else f" ± {1.96 * error:.4f}"
    return (
        _shown(layer["nmse"], ".4f"),
        _shown(document["base_cross_entropy"], ".4f"),
        _shown(layer["delta_cross_entropy"], "+.4f") + interval,
        _shown(layer["loss_recovered"], ".1%"),
        _shown(layer["dead_fraction"], ".0%"),
    )


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
