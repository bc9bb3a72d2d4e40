"""The top of a chapter: what was done, and what to know before trusting the figures."""

import shlex
from collections.abc import Sequence

from mxd.evaluation import idle_gate_limit
from mxd.report._desk import Desk
from mxd.report._looks import look
from mxd.report._show import NOTHING, compact, count, decimal, number, without_folders
from mxd.report.blocks import Block, Column, Line, Prose, Section, Table, Warnings
from mxd.report.combining import Group
from mxd.report.reading import Document, RunFiles, mapping, mappings

_NAMED = 6
_FINDINGS = [
    Column("signature", "signature", "Name of the failure."),
    Column("severity", "severity", "How much it matters."),
    Column("layers", "layers", "How many layers show it, and which.", words=True),
    Column(
        "figure", "figure", "The figure that shows it, from which value on it counts.", words=True
    ),
    Column("explanation", "what it means", "What it means.", words=True),
    Column("remedy", "what to do", "What to change.", words=True),
]


def overview(group: Group, desk: Desk, damaged: Sequence[str]) -> Section:
    """What was done, the commands, the cautions, and the doctor's findings."""
    commands = dict.fromkeys(command_of(run.record) for run in group.runs)
    blocks: list[Block] = [
        Prose([*_story(group), *(f"Command: {command}" for command in commands if command)])
    ]
    cautions = [note for run in group.runs for note in notes(run)]
    cautions = list(dict.fromkeys([*cautions, *_cautions(group.evaluation), *damaged]))
    if cautions:
        blocks.append(Warnings(cautions))
    blocks += [_doctor(document, desk) for document in group.of_kind("doctor").values()]
    return Section("", blocks)


def notes(run: RunFiles) -> list[str]:
    """What a reader must know of a run before trusting its figures."""
    said = run.record.get("notes")
    found = [note for note in said if isinstance(note, str)] if isinstance(said, list) else []
    falling = [name for (_, name), one in run.training.items() if one.get("still_falling") is True]
    if falling:
        tokens = next((one.get("tokens") for one in run.training.values() if one), None)
        found.append(
            f"After {count(tokens)} tokens the error of these students was still falling (by more "
            f"than 2 % over the last tenth of the run): {_some(falling)}."
        )
    diverged = [name for (_, name), one in run.training.items() if one.get("diverged") is True]
    if diverged:
        found.append(f"The training of these students diverged: {_some(diverged)}.")
    if run.record.get("complete") is False:
        found.append("The run was interrupted before its token budget was used.")
    return found + run.problems


def command_of(record: Document) -> str:
    """The command that made a run, as it was typed."""
    command = record.get("command")
    return shlex.join(str(word) for word in command) if isinstance(command, list) else ""


def _story(group: Group) -> list[str]:
    """What was done, in plain sentences."""
    record, evaluation = group.record, group.evaluation
    layers = mappings(evaluation.get("layers"))
    listed = layers or mappings(record.get("students"))
    sites = list(dict.fromkeys(str(layer.get("site")) for layer in listed))
    model = mapping(record.get("base_model")).get("name") or "a language model"
    text = mapping(mapping(record.get("recipe")).get("text"))
    what = "Its MLP" if len(sites) == 1 else f"{len(sites)} of its MLPs"
    tokens = number(group.tokens_trained())
    amount = "" if tokens is None else f" on {compact(tokens)} tokens"
    source = f" of {without_folders(text['source'])}" if text.get("source") else ""
    told = [
        f"The base model is {model}, kept frozen. {what} ({', '.join(sites) or 'none'}) gave the "
        f"inputs and outputs that {_plural(len(listed), 'layer')} learned to reproduce{amount}"
        f"{source}, all from the same pass of the model."
    ]
    loss = mapping(mapping(record.get("recipe")).get("optimizer")).get("loss")
    if loss:
        told.append(f"Training minimised the {loss} loss; the tables report NMSE.")
    if layers:
        told.append(_evaluated(evaluation))
    if len(group.runs) > 1:
        names = ", ".join(run.folder.name for run in group.runs)
        told.append(
            f"These runs have the same model, recipe and texts and share their tables: {names}."
        )
    return told


def _evaluated(evaluation: Document) -> str:
    documents = number(evaluation.get("documents"))
    of = "" if documents is None else f" of {_plural(int(documents), 'document')}"
    text = without_folders(evaluation.get("text") or "text")
    return (
        f"Each layer was then put in the MLP's place and evaluated on "
        f"{count(evaluation.get('tokens'))} tokens{of}: {text}."
    )


def _cautions(evaluation: Document) -> list[str]:
    """What the figures themselves warn of."""
    found = []
    for layer in mappings(evaluation.get("layers")):
        static, error = number(layer.get("static_nmse")), number(layer.get("nmse"))
        if static is not None and error is not None and static <= idle_gate_limit(error):
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


def _doctor(document: Document, desk: Desk) -> Block:
    findings = _findings(document)
    if not findings:
        return Prose(["The doctor found none of the known failure signatures."])
    return Table(
        desk.name("doctor"),
        "What the doctor found: known failure signatures, the figures that show them and what to "
        "do about each.",
        _FINDINGS,
        [Line(_cells(alike)) for alike in _by_signature(findings)],
        [{k: v for k, v in one.items() if not isinstance(v, (dict, list))} for one in findings],
        desk.made_by(document),
    )


def _findings(document: Document) -> list[Document]:
    """Findings at the top of the document, or below each layer."""
    own = mappings(document.get("findings"))
    below = [
        {"layer": layer.get("name")} | finding
        for layer in mappings(document.get("layers"))
        for finding in mappings(layer.get("findings"))
    ]
    return own or below


def _by_signature(findings: list[Document]) -> list[list[Document]]:
    """The findings of one kind together: what they mean and what to do is the same."""
    found: dict[tuple[str, ...], list[Document]] = {}
    for one in findings:
        key = tuple(str(one.get(k)) for k in ("severity", "signature", "explanation", "remedy"))
        found.setdefault(key, []).append(one)
    return list(found.values())


def _cells(alike: list[Document]) -> list[str]:
    first = alike[0]
    values = sorted(value for one in alike if (value := number(one.get("value"))) is not None)
    shown = " to ".join(dict.fromkeys(decimal(value) for value in (*values[:1], *values[-1:])))
    figure = f"{first.get('figure')} = {shown or NOTHING}"
    threshold = decimal(first.get("threshold"))
    if threshold != NOTHING:
        figure += f" (threshold {threshold})"
    names = [str(one.get("layer")) for one in alike]
    return [
        *(str(first.get(key, NOTHING)) for key in ("signature", "severity")),
        f"{len(names)}: {_some(names)}",
        figure,
        *(str(first.get(key, NOTHING)) for key in ("explanation", "remedy")),
    ]


def _some(names: Sequence[str]) -> str:
    """The first names of a list that may be long."""
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - _NAMED
    return ", ".join(distinct[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _plural(many: int, what: str) -> str:
    return f"{count(many)} {what}{'' if many == 1 else 's'}"
