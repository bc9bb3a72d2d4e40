"""A picture's block from the files that were drawn."""

from collections.abc import Sequence
from pathlib import Path

from mxd.report.blocks import Picture


def picture(paths: Sequence[Path], alt: str, caption: str, command: str) -> Picture:
    """The block of a drawn picture, by its PNG."""
    (png,) = [path for path in paths if path.suffix == ".png"]
    return Picture(png, alt, caption, command)
