"""Tables as CSV files in full precision, safe to open in a spreadsheet."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mxd._durable_files import replace_whole
from mxd.report._show import visible

_FORMULA = ("=", "+", "-", "@")


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write a table: a line for each record, a column for each key that one of them has.

    Numbers are written in full, what is not finite and None as nothing, text on one line. Text
    that a spreadsheet would take for a formula begins with an apostrophe.

    Raises:
        UserError: the file cannot be written.
    """
    keys = list(dict.fromkeys(key for record in records for key in record))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_cell(key) for key in keys])
    writer.writerows([_cell(record.get(key)) for key in keys] for record in records)
    content = file.getvalue().encode("utf-8", "replace")
    replace_whole(path, lambda place: place.write_bytes(content))
    return path


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = visible(value)
    return f"'{text}" if text.lstrip(" '").startswith(_FORMULA) else text
