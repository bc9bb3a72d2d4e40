"""What a page is built of: sections that hold text, tables, pictures and samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Column(NamedTuple):
    """One column of a table."""

    key: str
    """Plain name of the figure."""
    header: str
    """Short header."""
    meaning: str
    """What the figure says, in one sentence."""
    words: bool = False
    """Whether its cells are sentences."""


@dataclass(frozen=True)
class Line:
    """One line of a table, as people read it."""

    cells: Sequence[str]
    """Display strings, in the order of the columns."""
    group: str = ""
    """Lines of one group stand together under its name; the empty name is not shown."""


@dataclass(frozen=True)
class Table:
    """A table of the page, and of a CSV file in full precision."""

    name: str
    """Name of the CSV file, without its ending."""
    caption: str
    """What is seen: units, how many, which interval."""
    columns: Sequence[Column]
    """Columns of the page."""
    lines: Sequence[Line]
    """Lines of the page."""
    records: Sequence[Mapping[str, Any]]
    """Lines of the CSV file: plain keys and unrounded values."""
    command: str = ""
    """The command that made its figures."""
    folded: bool = False
    """Whether the page shows it only when asked to."""
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Picture:
    """A picture of the page; its SVG lies beside its PNG."""

    path: Path
    """The PNG."""
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str
    """What is seen: units, how many, which interval."""
    command: str = ""
    """The command that made its figures."""
    kind: str = field(default="picture", init=False)


@dataclass(frozen=True)
class Prose:
    """Paragraphs."""

    paragraphs: Sequence[str]
    """One sentence or several each."""
    kind: str = field(default="prose", init=False)


@dataclass(frozen=True)
class Warnings:
    """What a reader must know before trusting the figures."""

    items: Sequence[str]
    """One sentence or several each."""
    title: str = "Before you trust these figures"
    """Heading of the box."""
    kind: str = field(default="warnings", init=False)


@dataclass(frozen=True)
class Terms:
    """Names and what belongs to them."""

    entries: Sequence[tuple[str, Any]]
    """Name, and a value: text, numbers, lists or mappings of those."""
    summary: str = ""
    """Where given, the page shows them only when asked to, under this name."""
    kind: str = field(default="terms", init=False)


@dataclass(frozen=True)
class Listing:
    """Pseudocode."""

    title: str
    """What it computes."""
    text: str
    """Its lines."""
    kind: str = field(default="listing", init=False)


@dataclass(frozen=True)
class Units:
    """Units in the contexts they fire in."""

    of: str
    """Name of their layer."""
    units: Sequence[Mapping[str, Any]]
    """As `UnitExamples.to_dict` gives them."""
    command: str = ""
    """The command that found them."""
    kind: str = field(default="units", init=False)


@dataclass(frozen=True)
class Samples:
    """Texts side by side."""

    intro: str
    """How they were made."""
    prompt: str
    """What they were written from."""
    texts: Sequence[tuple[str, Sequence[str]]]
    """Label, and the samples under it."""
    command: str = ""
    """The command that wrote them."""
    kind: str = field(default="samples", init=False)


Block = Table | Picture | Prose | Warnings | Terms | Listing | Units | Samples


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    """Heading; empty where the blocks need none."""
    blocks: Sequence[Block]
    """From top to bottom."""


@dataclass(frozen=True)
class Chapter:
    """Everything of one base model's runs."""

    title: str
    """Heading; a page of one chapter shows none."""
    sections: Sequence[Section]
    """From top to bottom."""
