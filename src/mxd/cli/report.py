"""`mxd report`: everything that was measured of one run or several, on one page."""

from pathlib import Path

import click

from mxd.cli._paths import check_json_target, check_writable, write_json
from mxd.cli._run import command_line
from mxd.cli._screen import console
from mxd.cli._types import with_config
from mxd.errors import UserError
from mxd.report import report_runs


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Folder for the report.  [default: RUN/report for one run, mxd-report for several]",
)  # fmt: skip
@click.option("--title", help="Title of the report.  [default: the base models' names]")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path),
    help="File for the names of the files that were written.",
)  # fmt: skip
@with_config
def report(
    runs: tuple[Path, ...], out: Path | None, title: str | None, json_file: Path | None
) -> None:
    """Put everything measured of RUNS on one page, with its figures and tables.

    Writes report.html, which needs no other file and no network, figures/ (PNG and SVG) and tables/
    (CSV in full precision). Nothing is measured: what the other verbs left in the runs' folders is
    shown. Runs that differ in nothing but their students share their tables.
    """
    check_json_target(json_file)
    target = _target(runs, out)
    page = report_runs(runs, target, title=title, command=command_line())
    write_json(json_file, {"kind": "report", "report": str(page), **_written(target)})
    console().print(f"Report: {page}", markup=False, soft_wrap=True)


def _target(runs: tuple[Path, ...], out: Path | None) -> Path:
    """Where the report goes.

    Raises:
        UserError: a file is in the way, or the folder cannot be written to.
    """
    for run in runs:
        if not (run / "run.json").is_file():
            raise UserError(f"got {run}, expected the folder of a run, with a run.json in it")
    target = out or (runs[0] / "report" if len(runs) == 1 else Path("mxd-report"))
    if target.exists() and not target.is_dir():
        raise UserError(f"got --out {target}, a file, expected a folder; choose another")
    target.mkdir(parents=True, exist_ok=True)
    check_writable(target)
    return target


def _written(target: Path) -> dict[str, list[str]]:
    return {
        kind: sorted(str(path) for path in (target / kind).glob("*") if path.is_file())
        for kind in ("figures", "tables")
    }
