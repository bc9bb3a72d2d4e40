"""Ways to spoil a file: every key of JSON and YAML, plain bytes, and what is no plain file."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.values import Trap, every_value, with_twin, written

_MOST_ITEMS = 3
"""Items of a list that are spoiled one by one; the rest are like them."""


@dataclass(frozen=True)
class Mutation:
    """One change to one file."""

    place: str
    """What is changed: a key, a field of the header, or `bytes`."""
    what: object
    """How, as text or as something that can be shown."""
    content: bytes | Callable[[], bytes] | None
    """The file's new content, or what makes it; None where `make` puts something else there."""
    make: Callable[[Path], None] | None = None
    """Puts something other than a plain file there."""
    forbidden: bool = False
    """Whether what is so changed must be refused, however good its content is."""

    def apply(self, path: Path) -> None:
        """Put the change in the file's place; the old file stays as it is for whoever maps it."""
        remove(path)
        if self.make is not None:
            self.make(path)
        else:
            path.write_bytes(self.bytes())

    def bytes(self) -> bytes:
        """The file's new content."""
        assert self.content is not None
        return self.content if isinstance(self.content, bytes) else self.content()


@dataclass(frozen=True)
class Edit:
    """One change to a JSON document."""

    path: tuple[Any, ...]
    """Keys and indices down to the value; empty for the whole document."""
    what: str
    """`value`, `removed`, `renamed`, `twice` or `doubled`."""
    value: Any = None
    """The new value or name."""

    @property
    def place(self) -> str:
        """The path as text."""
        return "/" + "/".join(map(str, self.path))

    def __str__(self) -> str:
        return f"{self.what} {self.value!r:.24}"

    def applied(self, document: bytes) -> bytes:
        """The document with the change."""
        if not self.path:
            return written(self.value)
        whole = json.loads(document)
        parent = whole
        for key in self.path[:-1]:
            parent = parent[key]
        key = self.path[-1]
        if self.what == "value":
            parent[key] = self.value
        elif self.what == "twice":
            parent.update(with_twin(parent, key))
        elif self.what == "doubled":
            parent.append(parent[key])
        else:
            old = parent.pop(key)
            if self.what == "renamed":
                parent[self.value] = old
        return written(whole, key if self.what == "twice" else None)


def remove(path: Path) -> None:
    """Take away whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def json_mutations(content: bytes, mark: Path) -> Iterator[Mutation]:
    """Every key of a JSON document removed, renamed, given twice and replaced by every value.

    Args:
        content: the document.
        mark: what code that should not run would make.
    """
    for edit in edits(json.loads(content), mark):
        yield Mutation(edit.place, edit, partial(edit.applied, content))


def json_line_mutations(content: bytes, mark: Path) -> Iterator[Mutation]:
    """The same for the first line of JSON lines."""
    first, *rest = content.splitlines()

    def lines(edit: Edit) -> bytes:
        return b"\n".join([edit.applied(first), *rest]) + b"\n"

    for edit in edits(json.loads(first), mark):
        yield Mutation(edit.place, edit, partial(lines, edit))


def yaml_mutations(content: bytes, mark: Path) -> Iterator[Mutation]:
    """The same for YAML that is written as JSON, and what only YAML has: aliases, tags, dates."""
    yield from json_mutations(content, mark)
    levels = "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12))
    merged = "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 30))
    texts = {
        "alias bomb": f"b0: &b0 [x]\n{levels}",
        "merge bomb": f"m0: &m0 {{k: 1}}\n{merged}",
        "itself": "a: &a [*a]\n",
        "python": f"!!python/object/apply:os.mkdir [{str(mark)!r}]\n",
        "python in a value": f"k: !!python/object/apply:os.mkdir [{str(mark)!r}]\n",
        "sixties": "k: " + "1:" * 50_000 + "1\n",
        "fraction of sixties": "k: " + "1:" * 500 + "1.5\n",
        "hexadecimal": "k: 0x" + "f" * 100_000 + "\n",
        "date": "k: 2001-99-99\n",
        "empty number": "k: !!int ''\n",
        "key of a list": "? [a]\n: 1\n",
        "value": "k: =\n",
        "deep": "k: " + "[" * 20_000,
        "deep blocks": "".join(" " * i + f"k{i}:\n" for i in range(500)),
        "documents": "k: 3\n---\nk: 4\n",
        "control": "k: \x01\n",
        "version": "%YAML 9.9\n---\nk: 3\n",
    }
    for what, text in texts.items():
        yield Mutation(f"yaml {what}", what, text.encode())


def byte_mutations(
    content: bytes, others: dict[str, bytes], dice: random.Random, count: int
) -> Any:
    """Bytes flipped, cut, removed, doubled, zeroed, appended, or taken from another file.

    Args:
        content: the file.
        others: files to take the whole content of, by name.
        dice: what chooses.
        count: how many random ones.
    """
    for name, other in others.items():
        yield Mutation("bytes", f"swapped with {name}", other)
    for keep in (0, 1, 4, 8, 9, len(content) // 2, len(content) - 1):
        yield Mutation("bytes", f"cut to {keep}", content[:keep])
    for _ in range(count):
        what = dice.choice(["flip", "flip", "digit", "cut", "extend", "remove", "zero", "double"])
        yield Mutation("bytes", what, _damaged(content, what, dice))


def special_files(mark: Path) -> Iterator[Mutation]:
    """What is no plain file at all: folders, pipes, links, pickles, nothing."""
    outside = mark.parent / "outside.bin"
    kinds: dict[str, Callable[[Path], None]] = {
        "nothing": lambda path: None,
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "link out": lambda path: path.symlink_to(outside),
        "link to nothing": lambda path: path.symlink_to("nowhere"),
        "link to itself": lambda path: path.symlink_to(path.name),
        "device": lambda path: path.symlink_to("/dev/zero"),
    }
    for what, make in kinds.items():
        yield Mutation("file", what, None, make)
    yield Mutation("file", "pickle", pickle.dumps(Trap(mark)))
    yield Mutation("file", "old pickle", pickle.dumps(Trap(mark), protocol=0))
    yield Mutation("file", "zip", b"PK\x03\x04" + bytes(200))


def link_to(good: Path) -> Mutation:
    """A link to a sound file or folder elsewhere, which must not be followed."""
    return Mutation("link", "to a good one", None, lambda path: path.symlink_to(good), True)


def edits(document: Any, mark: Path) -> Iterator[Edit]:
    """Every edit of every value of a document; of long lists only the first few items."""
    values = every_value(mark)
    for path in ((), *_paths(document)):
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        old = parent[path[-1]] if path else document
        yield from (Edit(path, "value", value) for value in values if value is not old)
        if not path:
            continue
        yield Edit(path, "removed")
        if isinstance(parent, dict):
            names = ("", "a\0b", "../x", "\ud800", "x" * 5000, path[-1].upper(), f"{path[-1]} ")
            yield from (Edit(path, "renamed", name) for name in names)
            yield Edit(path, "twice")
        else:
            yield Edit(path, "doubled")


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(min(len(value), _MOST_ITEMS)))
    for key in keys:
        yield (*above, key)
        yield from _paths(value[key], (*above, key))


def _damaged(content: bytes, what: str, dice: random.Random) -> bytes:
    spoiled = bytearray(content)
    where = dice.randrange(min(len(spoiled), dice.choice([9, 700, len(spoiled)])))
    if what == "flip":
        for _ in range(dice.choice([1, 1, 3, 20])):
            at = min(len(spoiled) - 1, where + dice.randrange(20))
            spoiled[at] ^= 1 << dice.randrange(8)
    elif what == "digit":
        digits = [i for i, byte in enumerate(spoiled[:5000]) if chr(byte).isdigit()]
        if digits:
            spoiled[dice.choice(digits)] = ord(dice.choice("0123456789-e."))
    elif what == "cut":
        del spoiled[where:]
    elif what == "extend":
        spoiled += bytes(dice.randrange(256) for _ in range(dice.randrange(1, 40)))
    elif what == "remove":
        del spoiled[where : where + dice.randrange(1, 30)]
    elif what == "double":
        spoiled[where:where] = spoiled[where : where + dice.randrange(1, 200)]
    else:
        spoiled[where : where + 8] = dice.choice([b"\0" * 8, b"\xff" * 8])
    return bytes(spoiled)
