"""Readers of text files: each yields records with their place, a piece at a time."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mxd._json_files import parse_json
from mxd._outside_files import open_plain
from mxd.data.damage import DamagedError
from mxd.data.records import TOKEN_COLUMN, wanted_columns
from mxd.data.text_options import TextOptions
from mxd.errors import UserError

Located = tuple[str, Any]
"""Where a record stands ("file, line 3"), and the record; or the error that a damaged one is, from
the readers of `READERS`."""

_BOM = b"\xef\xbb\xbf"
_PARQUET_ROWS = 256
_LONGEST_LINE = 32 << 20
_MOST_BATCH_BYTES = 32 << 20


def read_json_lines(path: Path) -> Iterator[Located]:
    r"""One record for each line of a JSON-lines file, gzipped or not, split on \n only.

    Raises:
        UserError: A line is not UTF-8 or not JSON, or the file is damaged.
    """
    try:
        for where, record in read_damaged_json_lines(path):
            if isinstance(record, DamagedError):
                raise record
            yield where, record
    except DamagedError as error:  # who calls this leaves nothing out
        raise UserError(error.said) from error


def read_damaged_json_lines(path: Path, _options: TextOptions | None = None) -> Iterator[Located]:
    """As `read_json_lines`, but damaged lines are given as the errors that they are.

    Raises:
        UserError: The file is damaged, so that nothing after the place can be read.
    """
    with _file_errors(path), _open_binary(path) as file:
        lines = iter(lambda: file.readline(_LONGEST_LINE + 1), b"")
        for number, line in enumerate(lines, start=1):
            if len(line) > _LONGEST_LINE:  # a small gzip file can hold one that fills any memory
                raise _too_long(path, number)
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.strip():
                yield f"{path}, line {number}", _parse(line, path, number)


def holds_json_lines(path: Path, options: TextOptions) -> bool:
    """Whether a file's first record is one that documents can be made of.

    Folders hold other `.json` files too (manifests, settings), which are no text.
    """
    try:
        _, record = next(read_json_lines(path))
    except (UserError, StopIteration):
        return False
    return isinstance(record, dict) and (options.column in record or TOKEN_COLUMN in record)


def read_text(path: Path, options: TextOptions) -> Iterator[Located]:
    """The whole of a text file as one record.

    Raises:
        UserError: The file is not UTF-8.
    """
    with _file_errors(path), open_plain(path) as file:
        raw = file.read()
    try:
        text = raw.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start + (len(_BOM) if raw.startswith(_BOM) else 0)
        raise _not_utf8(path, f"byte {raw[start]:#04x} at offset {start}") from error
    yield str(path), {options.column: text}


def read_parquet(path: Path, options: TextOptions) -> Iterator[Located]:
    """One record for each row of a Parquet file, of the wanted columns only.

    Raises:
        UserError: The file is damaged or has no column of text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    with _file_errors(path):
        try:
            with open_plain(path) as plain, pq.ParquetFile(plain) as file:
                columns = wanted_columns(file.schema_arrow.names, options, str(path))
                for batch in _batches(file, columns, path):
                    for record in _rows(batch, path, row):
                        row += 1
                        yield f"{path}, row {row}", record
        except pa.ArrowException as error:
            raise _damaged(path, "Parquet file", error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise _damaged(path, "Parquet file", error) from error  # Arrow's, of the content


def _batches(file: Any, columns: list[str], path: Path) -> Iterator[Any]:
    """The rows in batches of a bounded size, fewer where they are long.

    Raises:
        UserError: The rows of a group are longer than any document should be.
    """
    for number in range(file.num_row_groups):
        length = _row_bytes(file.metadata.row_group(number), columns)
        if length > _LONGEST_LINE:
            raise UserError(
                f"got rows of {length} bytes in {path}, expected at most {_LONGEST_LINE}; split "
                "the documents"
            )
        rows = max(1, min(_PARQUET_ROWS, _MOST_BATCH_BYTES // max(1, length)))
        yield from file.iter_batches(batch_size=rows, row_groups=[number], columns=columns)


def _row_bytes(group: Any, columns: list[str]) -> int:
    """Bytes of a row by what the file says of itself, of the wanted columns."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] in columns
    )
    return int(size) // max(1, int(group.num_rows))


def _rows(batch: Any, path: Path, before: int) -> list[Any]:
    """The rows of a batch; those whose text is not UTF-8 as the errors that they are."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            place = f"byte {error.object[error.start]:#04x} in row {before + 1}"
            return [_not_utf8(path, place)]
    return [row for i in range(len(batch)) for row in _rows(batch.slice(i, 1), path, before + i)]


READERS: dict[str, Callable[[Path, TextOptions], Iterator[Located]]] = {
    ".jsonl": read_damaged_json_lines,
    ".jsonl.gz": read_damaged_json_lines,
    ".json": read_damaged_json_lines,
    ".json.gz": read_damaged_json_lines,
    ".parquet": read_parquet,
    ".txt": read_text,
}
"""The reader for each ending of a file's name."""


def ending(path: Path) -> str | None:
    """The supported ending of a file's name, or None."""
    name = path.name.lower()
    return next((suffix for suffix in READERS if name.endswith(suffix)), None)


@contextmanager
def _open_binary(path: Path) -> Iterator[gzip.GzipFile | IO[bytes]]:
    with open_plain(path) as plain:
        if not path.name.lower().endswith(".gz"):
            yield plain
            return
        with gzip.GzipFile(fileobj=plain) as unpacked:
            yield unpacked


def _parse(line: bytes, path: Path, number: int) -> Any:
    """What a line holds, or the error that it is."""
    try:
        return parse_json(line, finite=False)
    except UnicodeDecodeError as error:
        place = f"byte {line[error.start]:#04x} at offset {error.start} of line {number}"
        return _not_utf8(path, place)
    except (ValueError, RecursionError) as error:
        return DamagedError(
            f"got invalid JSON in {path}, line {number} ({error}), expected one JSON object on "
            "each line; mend or remove that line"
        )


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, "gzip file", error) from error
    except OSError as error:
        raise UserError(
            f"got {path}, expected a file that can be read; mend this: {error.strerror or error}"
        ) from error


def _damaged(path: Path, kind: str, error: Exception) -> DamagedError:
    return DamagedError(
        f"got {path}, expected a whole {kind}, but it is truncated or damaged ({error}); "
        "fetch or write it again"
    )


def _too_long(path: Path, number: int) -> UserError:
    return UserError(
        f"got a line of more than {_LONGEST_LINE} bytes in {path}, line {number}, expected one "
        "document on each line; split it"
    )


def _not_utf8(path: Path, place: str) -> DamagedError:
    return DamagedError(
        f"got {place} in {path}, expected UTF-8 text; convert the file to UTF-8, for example "
        "with iconv"
    )
