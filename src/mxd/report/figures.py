"""The pictures of a run: PNG for pages, SVG for papers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxd.errors import UserError
from mxd.report._canvas import Sheet
from mxd.report._curves import Curves, curves_by_site, show_curves, singular_values_by_site
from mxd.report._frontier import INCREASE, against_activity, against_k
from mxd.report._series import by_site, series
from mxd.report._show import compact
from mxd.report.published import Published


def draw_frontier(
    evaluation: dict[str, Any],
    stem: Path,
    *,
    model: str | None = None,
    tokens_trained: int | None = None,
    published: Published | None = None,
) -> list[Path]:
    """Draw NMSE and the increase of cross-entropy against K, a row of two panels for each site.

    A line goes through the mean over seeds, and where a seed was trained with several learning
    rates, through the one with the lowest NMSE; faint points are the single layers. Bars are 95 %
    intervals: between seeds (Student's t) where there are several, else by document. Ablations are
    left out.

    Args:
        evaluation: the document that `mxd eval --json` writes.
        stem: path of the pictures without its ending.
        model: name of the base model, for the title.
        tokens_trained: tokens that the layers were trained on, for the title.
        published: the paper's numbers, to draw beside those of the site they belong to.

    Returns:
        The PNG and the SVG.

    Raises:
        UserError: no layers to draw, or a folder that cannot be written to.
    """
    sites = by_site(evaluation)
    sheet = Sheet(len(sites), 2)
    facts = _facts(evaluation, list(sites), model, tokens_trained)
    sheet.title("Sparsity–accuracy frontier", facts)
    for (site, layers), (error, loss) in zip(sites.items(), sheet.panels, strict=True):
        for panel, key, name in (
            (error, "nmse", "NMSE  ‖ŷ − y‖² / ‖y‖²"),
            (loss, "delta_cross_entropy", INCREASE),
        ):
            sheet.axes(panel, "K, active units per token", name)
            beside = published if panel is loss else None
            if beside is not None and not beside.belongs_to(site, len(sites)):
                beside = None
            against_k(sheet, panel, series(layers, "k", key), beside)
        if len(sites) > 1:
            sheet.name_panel(error, site)
    return sheet.save(stem)


def draw_activity(
    evaluation: dict[str, Any],
    stem: Path,
    *,
    model: str | None = None,
    tokens_trained: int | None = None,
) -> list[Path]:
    """Draw the increase of cross-entropy against active parameters: equal K is not equal activity.

    Args:
        evaluation: the document that `mxd eval --json` writes.
        stem: path of the pictures without its ending.
        model: name of the base model, for the title.
        tokens_trained: tokens that the layers were trained on, for the title.

    Returns:
        The PNG and the SVG.

    Raises:
        UserError: no layers to draw, or a folder that cannot be written to.
    """
    sites = by_site(evaluation)
    sheet = Sheet(len(sites), 1, wide=1.45, tall=1.15)
    sheet.title("Loss against activity", _facts(evaluation, list(sites), model, tokens_trained))
    for (site, layers), (panel,) in zip(sites.items(), sheet.panels, strict=True):
        sheet.axes(panel, "active parameters per token", INCREASE)
        against_activity(sheet, panel, series(layers, "active_parameters", "delta_cross_entropy"))
        if len(sites) > 1:
            sheet.name_panel(panel, site)
    return sheet.save(stem)


def draw_training(
    rows: list[dict[str, Any]], stem: Path, *, facts: Sequence[str] = ()
) -> list[Path]:
    """Draw NMSE against tokens for each kind of student, a panel for each site.

    Lines are means over seeds, faint ones the single seeds.

    Args:
        rows: the lines of a run's metrics.jsonl.
        stem: path of the pictures without its ending.
        facts: what the title says below, beside the sites.

    Returns:
        The PNG and the SVG.

    Raises:
        UserError: no rows to draw, or a folder that cannot be written to.
    """
    sites = curves_by_site(rows)
    if not sites:
        raise UserError("got no training metrics to draw, expected rows with tokens and nmse")
    return _curves(sites, stem, facts, "Training error", "NMSE on training text", least=False)


def draw_singular_values(
    rows: list[dict[str, Any]], stem: Path, *, facts: Sequence[str] = ()
) -> list[Path]:
    """Draw the smallest singular value of each MxD's sampled experts against tokens.

    Args:
        rows: the lines of a run's metrics.jsonl.
        stem: path of the pictures without its ending.
        facts: what the title says below, beside the sites.

    Returns:
        The PNG and the SVG.

    Raises:
        UserError: no rows to draw, or a folder that cannot be written to.
    """
    sites = singular_values_by_site(rows)
    if not sites:
        raise UserError("got no singular values to draw, expected rows of an MxD with some")
    return _curves(
        sites, stem, facts, "Smallest singular value of experts", "min σ over experts", least=True
    )


def _curves(
    sites: Curves, stem: Path, facts: Sequence[str], title: str, name: str, *, least: bool
) -> list[Path]:
    most = max(len(students) for students in sites.values())
    sheet = Sheet(len(sites), 1, wide=1.45, tall=min(3.0, max(1.15, most / 16)))
    sheet.title(title, [*facts, next(iter(sites)) if len(sites) == 1 else f"{len(sites)} sites"])
    for (site, students), (panel,) in zip(sites.items(), sheet.panels, strict=True):
        sheet.axes(panel, "tokens trained on", name)
        show_curves(sheet, panel, students, least=least)
        if len(sites) > 1:
            sheet.name_panel(panel, site)
    return sheet.save(stem)


def _facts(
    evaluation: dict[str, Any], sites: Sequence[str], model: str | None, tokens: int | None
) -> list[str]:
    evaluated = evaluation.get("tokens")
    facts = [
        model,
        sites[0] if len(sites) == 1 else f"{len(sites)} sites",
        None if tokens is None else f"trained on {compact(tokens)} tokens",
        f"evaluated on {compact(evaluated)}" if evaluated else None,
    ]
    return [fact for fact in facts if fact]
