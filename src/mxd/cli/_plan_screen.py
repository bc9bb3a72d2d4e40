"""What `mxd plan` shows: layers, memory part by part, rates, the layout."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxd.cli._screen import _one_line
from mxd.planning import Plan, gigabytes

_PARTS = {
    "harvest": "language model",
    "gate": "gates",
    "rows": "rows of active units, loss",
    "dense": "dense branches, skips",
    "optimizer": "AdamW",
    "buffer": "to the buffer and back",
    "wires": "communication",
}
_TRAFFIC = {
    "rows": "activations gathered",
    "candidates": "candidates of top-k",
    "sums": "partial sums",
    "gradients": "gradients of units",
    "replicated": "gradients of dense branches",
    "model": "within the language model",
}


def show_plan(screen: Console, plan: Plan, document: dict[str, Any]) -> None:
    """All of a plan, the layout and its reason last."""
    _model(screen, document)
    _layers(screen, document)
    _memory(screen, plan, document)
    _rates(screen, document)
    _layout(screen, plan, document)
    for note in document["notes"]:
        screen.print(Text(f"Note: {_one_line(note)}", style="dim"))


def _model(screen: Console, document: dict[str, Any]) -> None:
    model = document["model"]
    sites = model["sites"]
    size = gigabytes(model["weight_bytes"])
    of = _one_line(sites[0]["name"]) + (f" and {len(sites) - 1} more" if len(sites) > 1 else "")
    screen.print(
        f"{_one_line(model['name'])}: {count(model['parameters'])} parameters in "
        f"{model['blocks']} blocks of width {model['width']:,}, {size}. "
        f"Layers for {of}; a pass runs {model['blocks_run']} blocks.",
        markup=False,
    )


def _layers(screen: Console, document: dict[str, Any]) -> None:
    table = _table("layer", "how many", "parameters", "of these sharded by experts",
                   "weights, gradients, moments")  # fmt: skip
    for one in document["students"]:
        table.add_row(
            Text(_one_line(one["name"])),
            f"{one['count']:,}",
            count(one["parameters"]),
            count(one["unit_parameters"]),
            gigabytes(one["training_bytes"]),
        )
    screen.print(table)


def _memory(screen: Console, plan: Plan, document: dict[str, Any]) -> None:
    memory = document["memory"]
    for where in ("device", "host"):
        if not memory[where]:
            continue
        phase, peak = memory[f"{where}_peak_phase"], memory[f"{where}_peak_bytes"]
        whose = "a device" if where == "device" else "the host, for each process"
        table = _table(f"memory of {whose}", "size", f"at the peak ({phase})")
        for item in sorted(memory[where], key=lambda i: (not i["at_peak"], -i["bytes"])):
            table.add_row(
                Text(item["name"]), gigabytes(item["bytes"]), "yes" if item["at_peak"] else ""
            )
        table.add_section()
        table.add_row("peak", f"{gigabytes(peak)}{_of(plan.device.memory_bytes, where)}", "")
        screen.print(table)
    if plan.option.node_processes > 1:
        room = _of(plan.device.host_memory_bytes)
        screen.print(
            f"The {plan.option.node_processes} processes of a node hold at most "
            f"{gigabytes(memory['node_bytes'])}{room} of its host's memory.",
            markup=False,
        )


def _of(known: int | None, where: str = "device") -> str:
    return f" of {gigabytes(known)}" if known is not None and where == "device" else ""


def _rates(screen: Console, document: dict[str, Any]) -> None:
    token = document["per_token"]
    screen.print(
        f"A token costs {quantity(token['harvest_flops'])}FLOP in the language model and "
        f"{quantity(token['layers_flops'])}FLOP in the layers, and moves "
        f"{gigabytes(token['harvest_bytes'])} and {gigabytes(token['layers_bytes'])}.",
        markup=False,
    )
    floor, expected = (document["step"][f"{key}_seconds"] for key in ("floor", "expected"))
    if floor is None or expected is None:
        return
    table = _table("a step", "floor", "expected", "share")
    for key, name in _PARTS.items():
        if expected[key]:
            share = f"{expected[key] / expected['total']:.0%}"
            table.add_row(name, seconds(floor[key]), seconds(expected[key]), share)
    table.add_section()
    table.add_row("all", seconds(floor["total"]), seconds(expected["total"]), "")
    screen.print(table)
    line = (
        f"Expected {document['tokens_per_second']:,.0f} tokens/s "
        f"(ceilings allow {document['floor_tokens_per_second']:,.0f}): "
        f"{document['training']['tokens']:,} tokens take {document['hours']:,.3g} hours"
    )
    if document["device"]["count"] > 1:
        line += f", {document['device_hours']:,.3g} device hours"
    if document["cost"] is not None:
        line += f", and cost {document['cost']:,.2f}"
    screen.print(f"{line}.", markup=False)


def _layout(screen: Console, plan: Plan, document: dict[str, Any]) -> None:
    sent = {name: document["traffic"][key] for key, name in _TRAFFIC.items()}
    if document["traffic"]["total"]:
        parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in sent.items() if size)
        total = gigabytes(document["traffic"]["total"])
        screen.print(f"Each process sends {total} in a step: {parts}.", markup=False)
    fits = document["layout"]["fits"]
    head = Text("Layout: " if fits else "Does not fit: ", style="bold" if fits else "bold red")
    screen.print(head.append(f"{plan.option.division}; {_one_line(plan.reason)}.", "default"))


def _table(*heads: str) -> Table:
    table = Table()
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right")
    return table


def count(number: int) -> str:
    """A number of parameters for people."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return str(number)


def quantity(number: int | float) -> str:
    """A large number with a prefix, and a blank before its unit."""
    for unit, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.0f} "


def seconds(value: float) -> str:
    """A time for people."""
    if value >= 1:
        return f"{value:,.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
