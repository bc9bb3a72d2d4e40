"""One page that carries everything with it: no request leaves the reader's machine."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mxd._durable_files import replace_whole
from mxd.errors import UserError
from mxd.report._show import decimal, percent, visible
from mxd.report.blocks import Chapter, Picture, Section
from mxd.report.reading import mappings

_PNG = b"\x89PNG\r\n\x1a\n"


def write_page(path: Path, *, title: str, chapters: Sequence[Chapter], command: str = "") -> Path:
    """Write a report as one HTML file that needs nothing else.

    Args:
        path: where to write it.
        title: its title.
        chapters: what it shows; with more than one, each stands under its own title.
        command: the command that put it together.

    Returns:
        The path.

    Raises:
        UserError: a picture that is none, or a path that cannot be written to.
    """
    outline = [_chapter(number, chapter) for number, chapter in enumerate(chapters, start=1)]
    several = len(outline) > 1
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            chapters=outline,
            contents=_contents(outline, several),
            level=3 if several else 2,
            command=command,
        )
    )
    content = text.encode("utf-8", "replace")
    replace_whole(path, lambda place: place.write_bytes(content))
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mxd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        visible=visible, percent=percent, decimal=decimal, mappings=mappings, image=_image
    )
    return environment


def _chapter(number: int, chapter: Chapter) -> dict[str, Any]:
    """Anchors are numbers: what others wrote stays out of attributes that name things."""
    return {
        "title": chapter.title,
        "anchor": f"c{number}",
        "sections": [
            _section(f"c{number}-s{place}", section)
            for place, section in enumerate(chapter.sections, start=1)
        ],
    }


def _section(anchor: str, section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "anchor": anchor if section.title else "",
        "blocks": section.blocks,
    }


def _contents(outline: Sequence[dict[str, Any]], several: bool) -> list[dict[str, Any]]:
    found = []
    for chapter in outline:
        if several and chapter["title"]:
            found.append({"title": chapter["title"], "anchor": chapter["anchor"], "deep": False})
        found += [
            {"title": section["title"], "anchor": section["anchor"], "deep": several}
            for section in chapter["sections"]
            if section["title"]
        ]
    return found


def _image(picture: Picture) -> str:
    """A picture as a data URI."""
    path = picture.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read picture {path}: {error.strerror}") from None
    if not content.startswith(_PNG):
        raise UserError(f"{path} is no PNG picture; give the PNG that was drawn beside it")
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
