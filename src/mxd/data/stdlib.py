"""The Python standard library as text that every machine has."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from mxd.data.documents import Document, DocumentSource
from mxd.errors import UserError

_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)


def python_stdlib_documents() -> DocumentSource:
    """The sources of the running Python's standard library, one document a file.

    Code with its docstrings, some 12 MB, in the order of the paths, without tests and installed
    packages. A key is a file's path in the library (`json/decoder.py`). Files that are not UTF-8
    are left out.

    Raises:
        UserError: This Python came without its library's sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    if next(_paths(root), None) is None:
        raise UserError(
            f"got no sources of Python's standard library in {root}, expected `.py` files; "
            "use a full installation of Python, or another text source"
        )
    return DocumentSource("python-stdlib", lambda: _documents(root))


def _documents(root: Path) -> Iterator[Document]:
    for path in _paths(root):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if text and not text.isspace():
            yield Document(path.relative_to(root).as_posix(), text)


def _paths(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name in _LEFT_OUT or path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _paths(path)
        elif path.suffix == ".py" and path.is_file():
            yield path
