"""The result as a table on the terminal."""

from collections.abc import Mapping
from typing import Any

from benchmarks.engine.cells import TITLES
from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(document: Mapping[str, Any]) -> None:
    """Print every cell: median seconds, the middle half, memory, and times mxd's."""
    table = Table("shape", "contender", "s / step", "middle half", "tokens/s", "÷ mxd", "beyond MB")
    for cell in document["cells"]:
        shape = (
            f"{cell['architecture']} N={cell['n']} K={cell['k']} {cell['tokens']} t {cell['dtype']}"
        )
        own = cell["results"].get("mxd", {}).get("median")
        for name, found in cell["results"].items():
            table.add_row(
                *(Text(text) for text in (shape, TITLES[name], *_figures(found, cell, own)))
            )
            shape = ""
    console = Console()
    console.print(Text(f"{document['machine']}; {document['bf16']}"))
    console.print(table)


def _figures(found: Mapping[str, Any], cell: Mapping[str, Any], own: float | None) -> list[str]:
    if "median" not in found:
        return [str(found.get("skipped") or found.get("error")), "", "", "", ""]
    median, beyond = found["median"], found.get("beyond_bytes")
    return [
        f"{median:.4g}",
        f"{found['q1']:.3g} – {found['q3']:.3g}",
        f"{cell['tokens'] / median:,.0f}",
        "" if own is None else f"{median / own:.2f}",
        "" if beyond is None else f"{beyond / 1e6:.0f}",
    ]
