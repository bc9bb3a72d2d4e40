"""From what a user types as a text source to documents."""

import glob
import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mxd.data import hub
from mxd.data.documents import Document, DocumentSource
from mxd.data.readers import READERS, Located, ending, holds_json_lines
from mxd.data.records import to_document
from mxd.data.stdlib import python_stdlib_documents
from mxd.data.text_options import TextOptions
from mxd.errors import UserError

PYTHON_STDLIB = "python-stdlib"
"""The name of the source that every machine has."""

_Part = Callable[[], Iterator[Document]]
_logger = logging.getLogger(__name__)


def open_documents(
    source: str | Path | Sequence[str | Path], options: TextOptions | None = None
) -> DocumentSource:
    """Open a source of text, to be read as often as needed with bounded memory.

    Args:
        source: A file (`.jsonl`, `.jsonl.gz`, `.json`, `.json.gz` of JSON lines, `.parquet`,
            `.txt`), a folder of these (read recursively, without hidden files), a glob, a local
            Hugging Face data-set folder, a data set's id on the hub, `"python-stdlib"`, or a
            list of these.
        options: Columns, split and shuffling.

    Returns:
        The documents, in an order that depends on the seed alone. A text file is one document.
        Records without a column that names their document have the SHA-256 of their text as key.

    Raises:
        UserError: The source does not exist or cannot be read. Faults inside files are raised
            when the reading comes to them.
    """
    options = options or TextOptions()
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    parts = [part for each in sources for part in _parts(os.fspath(each), options)]
    description = ", ".join(os.fspath(each) for each in sources)
    return DocumentSource(description, lambda: _read(parts, options))


def _parts(source: str, options: TextOptions) -> list[_Part]:
    """What a source consists of: files, or one data set."""
    if source == PYTHON_STDLIB:
        return [python_stdlib_documents().__iter__]
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder_parts(path, options)
    if path.exists():
        if ending(path) is None:
            raise UserError(f"got {source}, expected a file that ends in {_endings()}; convert it")
        return [partial(_file_documents, path, options)]
    if glob.has_magic(source):
        return _glob_parts(source, options)
    if hub.is_hub_id(source) and ending(path) is None:
        return [_dataset_part(hub.open_hub(source, options), source, options)]
    raise UserError(
        f"got {source!r}, which does not exist, expected a file, a folder, a glob, a data set of "
        f"the hub or {PYTHON_STDLIB!r}; check the path"
    )


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
        parts.append(partial(_file_documents, path, options))
    if not parts:
        raise UserError(
            f"got {description} without any text file, expected files that end in {_endings()}; "
            "convert the text to one of these"
        )
    return parts


def _file_documents(path: Path, options: TextOptions) -> Iterator[Document]:
    suffix = ending(path)
    assert suffix is not None
    return _documents(READERS[suffix](path, options), str(path), options)


def _dataset_part(dataset: Iterable[object], name: str, options: TextOptions) -> _Part:
    return lambda: _documents(hub.read_dataset(dataset, name), name, options)


def _documents(records: Iterator[Located], name: str, options: TextOptions) -> Iterator[Document]:
    without_text = 0
    for where, record in records:
        document = to_document(record, options, where)
        if document is None:
            without_text += 1
        else:
            yield document
    if without_text:
        _logger.warning("left out %d records without text in %s", without_text, name)


def _read(parts: Sequence[_Part], options: TextOptions) -> Iterator[Document]:
    generator = random.Random(options.seed)
    if not options.shuffle_documents:
        return (document for part in parts for document in part())
    order = generator.sample(list(parts), len(parts))
    documents = (document for part in order for document in part())
    return _shuffled(documents, options.shuffle_documents, generator)


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
