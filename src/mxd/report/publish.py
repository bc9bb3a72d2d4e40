"""From run folders to a report: pictures, tables as CSV, and one page that shows them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxd.errors import CannotWriteError, UserError
from mxd.report._desk import Desk
from mxd.report.blocks import Chapter, Section, Table
from mxd.report.combining import Group, group_runs
from mxd.report.html import write_page
from mxd.report.reading import read_run_files
from mxd.report.sections import SECTIONS, Build, method, notes, overview
from mxd.report.tables_csv import write_csv

logger = logging.getLogger(__name__)
__all__ = ["notes", "publish", "report_runs"]


def publish(
    folder: Path, *, title: str, record: dict[str, Any], evaluation: dict[str, Any], command: str
) -> Path:
    """Draw the figures of a run and write its report into its folder.

    Args:
        folder: the run's folder; everything in its eval/ is shown, and units worth seeing from
            eval/units.json, where it has one: `{"student", "units", "steered"}`.
        title: title of the report.
        record: content of run.json.
        evaluation: the document of `mxd eval --json` to judge the layers by.
        command: the command that makes the figures.

    Returns:
        The path of report.html; figures/ and tables/ lie beside it.
    """
    groups = group_runs([read_run_files(folder, record)], evaluation)
    return _write(folder, title=title, groups=groups, command=command)


def report_runs(
    folders: Sequence[Path], out: Path, *, title: str | None = None, command: str = ""
) -> Path:
    """Write one report on several runs.

    Runs with the same base model, recipe and evaluation text share their tables, so that seeds
    trained in several runs make one interval; the others stand in chapters of their own.

    Args:
        folders: folders of runs.
        out: folder for report.html, figures/ and tables/; made where it is not there.
        title: title of the report.
        command: the command that makes it.

    Returns:
        The path of report.html.

    Raises:
        UserError: no run, a folder that holds none, or one that cannot be written to.
    """
    if not folders:
        raise UserError("got no runs, expected the folder of at least one; name it")
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    groups = group_runs([read_run_files(folder) for folder in distinct])
    models = list(dict.fromkeys(group.model or "a language model" for group in groups))
    return _write(
        out,
        title=title or f"What was measured of {', '.join(models)}",
        groups=groups,
        command=command,
    )


def _write(out: Path, *, title: str, groups: Sequence[Group], command: str) -> Path:
    chapters = [
        _chapter(out, number, group, command, prefix=f"{number}-" if len(groups) > 1 else "")
        for number, group in enumerate(groups, start=1)
    ]
    last = Chapter("How it is computed", [method()])
    if len(chapters) == 1:
        chapters = [Chapter("", [*chapters[0].sections, *last.sections])]
    else:
        chapters.append(last)
    tables = [
        block
        for chapter in chapters
        for section in chapter.sections
        for block in section.blocks
        if isinstance(block, Table)
    ]
    for table in tables:
        write_csv(out / "tables" / f"{table.name}.csv", table.records)
    return write_page(out / "report.html", title=title, chapters=chapters, command=command)


def _chapter(out: Path, number: int, group: Group, command: str, prefix: str) -> Chapter:
    desk = Desk(out / "figures", group, prefix=prefix, command=command)
    damaged: list[str] = []
    found = [_built(build, group, desk, damaged) for build in SECTIONS]
    names = ", ".join(dict.fromkeys(run.folder.name for run in group.runs))
    title = f"{number}. {group.model or 'a language model'} ({names})"
    return Chapter(title, [overview(group, desk, damaged), *filter(None, found)])


def _built(build: Build, group: Group, desk: Desk, damaged: list[str]) -> Section | None:
    """A section; one whose files hold something else than expected is left out and named."""
    try:
        return build(group, desk)
    except CannotWriteError:
        raise
    except (TypeError, LookupError, ValueError, AttributeError, ArithmeticError) as error:
        what = build.__name__.replace("_", " ")
        logger.debug("section %s", what, exc_info=True)
        damaged.append(
            f"The part on {what} is left out: its files hold something unexpected "
            f"({type(error).__name__})."
        )
        return None
