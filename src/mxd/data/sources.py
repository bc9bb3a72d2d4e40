"""From what a user types as a text source to documents."""

import glob
import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mxd._outside_files import is_folder, is_there
from mxd.data import hub
from mxd.data.damage import DamagedError, Damages, Tally
from mxd.data.documents import Document, DocumentSource
from mxd.data.readers import READERS, Located, ending, holds_json_lines
from mxd.data.records import to_document
from mxd.data.retrying import RetryOptions, retried
from mxd.data.stdlib import python_stdlib_documents
from mxd.data.text_options import TextOptions
from mxd.errors import UserError

PYTHON_STDLIB = "python-stdlib"
"""The name of the source that every machine has."""

_logger = logging.getLogger(__name__)


class _Part(NamedTuple):
    """A file or a data set."""

    name: str
    """What the user would call it."""
    read: Callable[[Damages, Tally], Iterator[Document]]
    """Starts a pass over its documents."""
    remote: bool = False
    """Whether it is read over a network, and so may stall."""


def open_documents(
    source: str | Path | Sequence[str | Path],
    options: TextOptions | None = None,
    *,
    retry: RetryOptions | None = None,
) -> DocumentSource:
    """Open a source of text, to be read as often as needed with bounded memory.

    Args:
        source: A file (`.jsonl`, `.jsonl.gz`, `.json`, `.json.gz` of JSON lines, `.parquet`,
            `.txt`), a folder of these (read recursively, without hidden files), a glob, a local
            Hugging Face data-set folder, a data set's id on the hub, `"python-stdlib"`, or a
            list of these.
        options: Columns, split, shuffling and what to do about damage.
        retry: How patient to be with a source that fails for a while: it is opened again, and goes
            on after the last document that it gave.

    Returns:
        The documents, in an order that depends on the seed alone. A text file is one document.
        Records without a column that names their document have the SHA-256 of their text as key.

    Raises:
        UserError: The source does not exist or cannot be read. Faults inside files are raised
            when the reading comes to them.
    """
    options, retry = options or TextOptions(), retry or RetryOptions()
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    parts = [part for each in sources for part in _parts(os.fspath(each), options)]
    description = ", ".join(os.fspath(each) for each in sources)
    damages = Damages(description)
    return DocumentSource(description, lambda: _read(parts, options, retry, damages))


def _parts(source: str, options: TextOptions) -> list[_Part]:
    """What a source consists of: files, or one data set."""
    if source == PYTHON_STDLIB:
        library = python_stdlib_documents()
        return [_Part(source, lambda *_: iter(library))]
    path = _path(source)
    if is_folder(path):
        return _folder_parts(path, options)
    if is_there(path):
        if ending(path) is None:
            raise UserError(f"got {source}, expected a file that ends in {_endings()}; convert it")
        return [_file_part(path, options)]
    if glob.has_magic(source):
        return _glob_parts(source, options)
    if hub.is_hub_id(source) and ending(path) is None:
        dataset = hub.open_hub(source, options)
        return [_dataset_part(dataset, source, options, remote=hub.is_streamed(dataset))]
    raise UserError(
        f"got {source!r}, which does not exist, expected a file, a folder, a glob, a data set of "
        f"the hub or {PYTHON_STDLIB!r}; check the path"
    )


def _path(source: str) -> Path:
    try:
        if "\0" not in source:
            return Path(source).expanduser()
    except RuntimeError:  # the home of a user who is not there
        pass
    raise UserError(f"got {source!r}, expected the name of a file or folder; check the path")


def _folder_parts(folder: Path, options: TextOptions) -> list[_Part]:
    if hub.is_dataset_folder(folder, options):
        return [_dataset_part(hub.open_folder(folder, options), str(folder), options)]
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return _file_parts(sorted(files), f"the folder {folder}", options)


def _glob_parts(pattern: str, options: TextOptions) -> list[_Part]:
    matches = [Path(m) for m in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]  # noqa: PTH111, PTH207
    files = [path for path in matches if path.is_file()]
    if files:
        return _file_parts(files, f"the glob {pattern}", options)
    if not matches:
        raise UserError(
            f"got the glob {pattern!r}, which matches nothing, expected one that matches text "
            "files; check the pattern"
        )
    return [part for folder in matches for part in _folder_parts(folder, options)]


def _file_parts(files: Iterable[Path], description: str, options: TextOptions) -> list[_Part]:
    parts: list[_Part] = []
    for path in files:
        suffix = ending(path)
        if suffix is None:
            continue
        if suffix in (".json", ".json.gz") and not holds_json_lines(path, options):
            _logger.warning("left out %s: it holds no JSON lines of text", path)
            continue
        parts.append(_file_part(path, options))
    if not parts:
        raise UserError(
            f"got {description} without any text file, expected files that end in {_endings()}; "
            "convert the text to one of these"
        )
    return parts


def _file_part(path: Path, options: TextOptions) -> _Part:
    suffix = ending(path)
    assert suffix is not None
    opened = partial(READERS[suffix], path, options)
    return _Part(str(path), partial(_documents, opened, str(path), options))


def _dataset_part(
    dataset: Iterable[object], name: str, options: TextOptions, *, remote: bool = False
) -> _Part:
    opened = partial(hub.read_dataset, dataset, name)
    return _Part(name, partial(_documents, opened, name, options), remote)


def _documents(
    opened: Callable[[], Iterator[Located]],
    name: str,
    options: TextOptions,
    damages: Damages,
    tally: Tally,
) -> Iterator[Document]:
    without_text = damaged = 0
    try:
        for found in _converted(opened(), options):
            if isinstance(found, Document):
                yield found
            elif found is None:
                without_text += 1
            elif options.skip_damaged:
                damages.leave_out(found, what="a record")
                damaged += 1
            else:
                raise found
    except DamagedError as error:  # of a file: what follows in it cannot be read
        if not options.skip_damaged:
            raise
        damages.leave_out(error, what="what cannot be read of a file")
        tally.files += 1
    tally.records += damaged
    if without_text:
        _logger.warning("left out %d records without text in %s", without_text, name)


def _converted(
    records: Iterator[Located], options: TextOptions
) -> Iterator[Document | DamagedError | None]:
    """A document of each record; the error where one is damaged, None where it has no text."""
    for where, record in records:
        if isinstance(record, DamagedError):
            yield record
            continue
        try:
            found: Document | DamagedError | None = to_document(record, options, where)
        except DamagedError as error:
            found = error
        yield found


def _read(
    parts: Sequence[_Part], options: TextOptions, retry: RetryOptions, damages: Damages
) -> Iterator[Document]:
    if not options.shuffle_documents:
        return _in_turn(parts, retry, damages)
    generator = random.Random(options.seed)
    order = generator.sample(list(parts), len(parts))
    documents = _in_turn(order, retry, damages)
    return _shuffled(documents, options.shuffle_documents, generator)


def _in_turn(parts: Iterable[_Part], retry: RetryOptions, damages: Damages) -> Iterator[Document]:
    tally = Tally()
    for part in parts:
        patience = retry if part.remote else retry.of_files()
        opened = partial(part.read, damages, tally)
        yield from retried(opened, part.name, patience, stalls=part.remote)
    damages.tell(tally)


def _shuffled(
    documents: Iterator[Document], size: int, generator: random.Random
) -> Iterator[Document]:
    """Shuffle a stream through a buffer of bounded size."""
    held: list[Document] = []
    for document in documents:
        if len(held) < size:
            held.append(document)
            continue
        slot = generator.randrange(size)
        yield held[slot]
        held[slot] = document
    generator.shuffle(held)
    yield from held


def _endings() -> str:
    return ", ".join(READERS)
