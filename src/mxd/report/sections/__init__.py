"""The parts of a report, from top to bottom; each is left out where a run has nothing for it."""

from collections.abc import Callable

from mxd.report._desk import Desk
from mxd.report.blocks import Section
from mxd.report.combining import Group
from mxd.report.sections.ablations import ablations
from mxd.report.sections.editing import editing
from mxd.report.sections.faithfulness import faithfulness
from mxd.report.sections.geometry import geometry
from mxd.report.sections.method import method
from mxd.report.sections.overview import notes, overview
from mxd.report.sections.paper import paper
from mxd.report.sections.probing import probing
from mxd.report.sections.record import how_to_repeat
from mxd.report.sections.steering import steering
from mxd.report.sections.texts import texts
from mxd.report.sections.training import training
from mxd.report.sections.units import units
from mxd.report.sections.usage import usage

Build = Callable[[Group, Desk], Section | None]
SECTIONS: tuple[Build, ...] = (
    faithfulness,
    paper,
    ablations,
    texts,
    usage,
    geometry,
    probing,
    steering,
    editing,
    training,
    units,
    how_to_repeat,
)
"""Between the overview and the method."""

__all__ = ["SECTIONS", "Build", "method", "notes", "overview"]
