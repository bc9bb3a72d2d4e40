"""One page that carries everything with it: no request leaves the reader's machine."""

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mxd.errors import UserError
from mxd.report._captions import caption
from mxd.report._looks import look
from mxd.report._show import compact, count, decimal, number, percent, visible
from mxd.report.table import COLUMNS, Row, references, table_rows

_PNG = b"\x89PNG\r\n\x1a\n"


def write_report(
    path: Path,
    *,
    title: str,
    run: dict[str, Any],
    evaluation: dict[str, Any],
    pictures: Sequence[Path],
    units: Sequence[dict[str, Any]] = (),
    units_of: str | None = None,
    steered: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    commands: dict[str, str] | None = None,
) -> Path:
    """Write a report as one HTML file that needs nothing else.

    Args:
        path: where to write it.
        title: its title.
        run: content of run.json.
        evaluation: the document that `mxd eval --json` writes.
        pictures: PNG files to put in; an SVG among them is left to its PNG.
        units: units worth seeing, as `UnitExamples.to_dict` gives them.
        units_of: name of the layer that they belong to.
        steered: text with and without a unit turned up, the fields of `SteeredText`.
        notes: what a reader must know before trusting the figures.
        commands: the command that made each picture, by its file's name with or without ending,
            and of `table`, `units`, `steered`.

    Returns:
        The path.

    Raises:
        UserError: a picture that is none, or a path that cannot be written to.
    """
    page = _environment().get_template("report.html.j2")
    made_by = commands or {}
    text = page.render(
        title=title,
        run=run,
        story=_story(run, evaluation),
        command=shlex.join(str(word) for word in run.get("command") or []),
        notes=[*notes, *_cautions(evaluation)],
        columns=COLUMNS,
        tables=_by_site(table_rows(evaluation)),
        references=references(evaluation),
        pictures=[_picture(one, made_by) for one in pictures if one.suffix != ".svg"],
        units=units,
        units_of=units_of,
        steered=steered,
        commands=made_by,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"cannot write report {path}: {error.strerror}") from None
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mxd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {"visible": visible, "percent": percent, "decimal": decimal, "count": count}
    environment.filters.update(shown)
    return environment


def _picture(path: Path, commands: dict[str, str]) -> dict[str, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read picture {path}: {error.strerror}") from None
    if not content.startswith(_PNG):
        raise UserError(f"{path} is no PNG picture; give the PNG that was drawn beside it")
    alt, text = caption(path.stem)
    return {
        "data": "data:image/png;base64," + base64.b64encode(content).decode("ascii"),
        "alt": alt,
        "caption": text,
        "command": commands.get(path.name) or commands.get(path.stem) or "",
    }


def _by_site(rows: Sequence[Row]) -> dict[str, list[Row]]:
    sites = dict.fromkeys(row.site for row in rows)
    return {site: [row for row in rows if row.site == site] for site in sites}


def _story(run: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    """What was done, in plain sentences."""
    layers: list[dict[str, Any]] = evaluation.get("layers") or []
    sites = list(dict.fromkeys(str(layer.get("site")) for layer in layers))
    model = (run.get("base_model") or {}).get("name") or "a language model"
    recipe = run.get("recipe") or {}
    text = recipe.get("text") or {}
    what = "Its MLP" if len(sites) == 1 else f"{len(sites)} of its MLPs"
    tokens = number((run.get("data") or {}).get("tokens_trained"))
    amount = "" if tokens is None else f" on {compact(tokens)} tokens"
    source = f" of {text['source']}" if text.get("source") else ""
    told = [
        f"The base model is {model}, kept frozen. {what} ({', '.join(sites) or 'none'}) gave the "
        f"inputs and outputs that {_plural(len(layers), 'layer')} learned to reproduce{amount}"
        f"{source}, all from the same pass of the model."
    ]
    loss = (recipe.get("optimizer") or {}).get("loss")
    if loss:
        told.append(f"Training minimised the {loss} loss; the table reports NMSE.")
    documents = number(evaluation.get("documents"))
    of = "" if documents is None else f" of {_plural(int(documents), 'document')}"
    told.append(
        f"Each layer was then put in the MLP's place and evaluated on "
        f"{count(evaluation.get('tokens'))} tokens{of}: {evaluation.get('text') or 'text'}."
    )
    return told


def _cautions(evaluation: dict[str, Any]) -> list[str]:
    """What the figures themselves warn of."""
    found = []
    for layer in evaluation.get("layers") or []:
        static, error = number(layer.get("static_nmse")), number(layer.get("nmse"))
        if static is not None and error is not None and static <= 1.05 * error:
            name = layer.get("name") or look(str(layer.get("architecture"))).name
            found.append(
                f"The gate of {name} explains next to nothing: with its modulation frozen at the "
                f"mean, NMSE is {decimal(static)} against {decimal(error)}."
            )
    if evaluation.get("static_reference") == "evaluation":
        found.append(
            "Static NMSE and mean ablation use means of the evaluation text, because the layers "
            "were stored without those of their training tokens."
        )
    return found


def _plural(many: int, what: str) -> str:
    return f"{count(many)} {what}{'' if many == 1 else 's'}"
