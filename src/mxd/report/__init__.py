"""Pictures, tables and a page of HTML that show what runs found."""

from mxd.report._show import short_names
from mxd.report.blocks import Column
from mxd.report.figures import draw_activity, draw_frontier, draw_singular_values, draw_training
from mxd.report.html import write_page
from mxd.report.publish import publish, report_runs
from mxd.report.table import COLUMNS, Row, table_rows

__all__ = [
    "COLUMNS",
    "Column",
    "Row",
    "draw_activity",
    "draw_frontier",
    "draw_singular_values",
    "draw_training",
    "publish",
    "report_runs",
    "short_names",
    "table_rows",
    "write_page",
]
