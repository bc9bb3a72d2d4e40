"""Every mutation of a file, by its format."""

import random
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path

from tests.fuzz.headers import safetensors_mutations
from tests.fuzz.mutations import (
    Mutation,
    byte_mutations,
    json_line_mutations,
    json_mutations,
    link_to,
    special_files,
    yaml_mutations,
)

RANDOM_BYTES = 60
"""Random damages of each file."""


def spoiled(
    folder: Path, files: Iterable[str], mark: Path
) -> dict[str, Callable[[], Iterable[Mutation]]]:
    """Every mutation of some files of a folder."""
    return {file: partial(_mutations, folder, file, mark) for file in files}


def linked(folder: Path, names: Iterable[str]) -> dict[str, Callable[[], Iterable[Mutation]]]:
    """Files or folders that are replaced by links to good ones, which must not be followed."""
    return {name: partial(lambda place: [link_to(place)], folder / name) for name in names}


def _mutations(folder: Path, file: str, mark: Path) -> Iterable[Mutation]:
    path = folder / file
    content = path.read_bytes()
    others = {p.name: p.read_bytes() for p in sorted(path.parent.iterdir()) if p.is_file()}
    by_format: dict[str, Callable[[bytes, Path], Iterable[Mutation]]] = {
        ".json": json_mutations,
        ".jsonl": json_line_mutations,
        ".safetensors": safetensors_mutations,
        ".yaml": yaml_mutations,
    }
    structured = by_format.get(path.suffix)
    return chain(
        structured(content, mark) if structured else (),
        byte_mutations(content, others, random.Random(file), RANDOM_BYTES),
        special_files(mark),
    )
