"""Pictures, tables and a page of HTML that show what a run found."""

from mxd.report.figures import draw_activity, draw_frontier, draw_training
from mxd.report.html import write_report
from mxd.report.publish import publish
from mxd.report.table import COLUMNS, Column, Row, table_rows

__all__ = [
    "COLUMNS",
    "Column",
    "Row",
    "draw_activity",
    "draw_frontier",
    "draw_training",
    "publish",
    "table_rows",
    "write_report",
]
