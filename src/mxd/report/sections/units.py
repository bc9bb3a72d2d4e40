"""Units worth seeing, and a text with one of them turned up."""

from mxd.report._desk import Desk
from mxd.report._show import decimal
from mxd.report.blocks import Block, Samples, Section, Units
from mxd.report.combining import Group
from mxd.report.reading import Document, mapping, mappings


def units(group: Group, desk: Desk) -> Section | None:
    """The units that `mxd demo` or `mxd top` found, in their contexts."""
    blocks: list[Block] = []
    for document in [*group.of_kind("units").values(), *group.of_kind("top").values()]:
        command = desk.made_by(document)
        shown = mappings(document.get("units"))
        if shown:
            name = document.get("student") or document.get("name") or ""
            blocks.append(Units(str(name), shown, command))
        steered = mapping(document.get("steered"))
        if steered:
            blocks.append(_steered(steered, command))
    return Section("Units worth seeing", blocks) if blocks else None


def _steered(steered: Document, command: str) -> Samples:
    return Samples(
        f"With the layer in place, and with {decimal(steered.get('strength'), 1)} added to the "
        f"coefficient of unit {steered.get('unit')} at every token. Both use the same seed.",
        str(steered.get("prompt", "")),
        [(label, [str(steered.get(label, ""))]) for label in ("plain", "steered")],
        command,
    )
