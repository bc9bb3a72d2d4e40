"""Spoil real files, let the library read them, and count what came of it."""

import gzip
import json
import math
import random
import shutil
import struct
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import click
import yaml
from tests.fuzz.guards import MEMORY, Peak, TookTooLongError, in_time, watched, within_memory
from tests.fuzz.mutations import Mutation, remove

from mxd.errors import UserError

_MOST_EVENTS = 1000
_MEMORY_TIMES = 40
"""Bytes that a byte of a file may become when it is parsed."""


@dataclass(frozen=True)
class Target:
    """Something that the library reads, and what is then done with it."""

    name: str
    """What it is."""
    folder: Path
    """A good one."""
    files: Mapping[str, Callable[[], Iterable[Mutation]]]
    """Mutations of each of its files that are to be spoiled."""
    load: Callable[[Path], Any]
    """Reads it; a refusal has to name the folder or the file."""
    use: Callable[[Any, Path], None] = lambda thing, out: None
    """Uses what was read; may write to the folder it is given."""
    reseal: Callable[[Path], None] | None = None
    """Mends checksums, as an attacker would."""
    memory: int = MEMORY
    """Bytes that reading and using may take."""
    weight: float = 1.0
    """Share of the mutations, beside 1."""


@dataclass
class Tally:
    """What became of a target's mutations."""

    tried: int = 0
    """How many there were."""
    parsed: int = 0
    """Those that the first parse let through."""
    loaded: int = 0
    """Those that were read and used."""
    refused: int = 0
    """Those that a `UserError` refused."""
    places: set[str] = field(default_factory=set)
    """What was spoiled: keys, fields, files."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """What should not have happened."""
    peak: int = 0
    """The largest memory that one took, in bytes."""


def chosen(target: Target, count: int, dice: random.Random) -> list[tuple[str, Mutation]]:
    """So many mutations of a target: one of every place first, then any others.

    Args:
        target: the target.
        count: how many; fewer where there are no more.
        dice: what chooses.
    """
    by_place: dict[tuple[str, str], list[Mutation]] = {}
    for file, mutations in target.files.items():
        for one in mutations():
            by_place.setdefault((file, one.place), []).append(one)
    for of in by_place.values():
        dice.shuffle(of)
    places = list(by_place)
    dice.shuffle(places)
    found = [(file, by_place[file, place].pop()) for file, place in places]
    rest = [(file, one) for (file, _), of in by_place.items() for one in of]
    dice.shuffle(rest)
    return [*found, *rest][:count]


def tried(target: Target, mutations: Sequence[tuple[str, Mutation]], work: Path) -> Tally:
    """Apply each mutation to a copy of the target, read it, and say what came of it.

    Args:
        target: the target.
        mutations: file and change.
        work: an empty folder.
    """
    copy, out, mark = work / "input", work / "out", work / "ran"
    shutil.copytree(target.folder, copy)
    _warm(target, copy, out)
    tally, peak = Tally(), Peak()
    for file, mutation in mutations:
        mutation.apply(copy / file)
        if target.reseal is not None and mutation.make is None:
            with suppress(Exception):  # what is no longer of its format has nothing to mend
                target.reseal(copy)
        tally.tried += 1
        tally.places.add(f"{file}:{mutation.place}")
        tally.parsed += past_first_parse(copy / file)
        loaded = tally.loaded
        failure = _outcome(target, copy, out, mark, peak, tally)
        if mutation.forbidden and tally.loaded > loaded:
            failure = f"{failure or ''} followed a link out of the folder"
        if failure:
            label = {"file": file, "place": mutation.place, "change": str(mutation.what)}
            tally.failures.append({**label, "failure": failure})
        _restore(target, copy, out)
    return tally


def _warm(target: Target, copy: Path, out: Path) -> None:
    """Read the good one, which must succeed, so that everything is imported and allocated."""
    out.mkdir()
    target.use(target.load(copy), out)
    _restore(target, copy, out)


def _restore(target: Target, copy: Path, out: Path) -> None:
    for folder in (out, copy):
        remove(folder)
    out.mkdir()
    shutil.copytree(target.folder, copy)


def _outcome(
    target: Target, copy: Path, out: Path, mark: Path, peak: Peak, tally: Tally
) -> str | None:
    """What went wrong, or None; counts loads and refusals."""
    most = target.memory + _MEMORY_TIMES * sum(p.lstat().st_size for p in copy.rglob("*"))
    failure: str | None = None
    peak.start()
    with watched(copy.parent) as seen:
        try:
            with within_memory(), in_time():
                failure = _read_and_used(target, copy, out, tally)
        except TookTooLongError:
            failure = "hang:\n" + traceback.format_exc()[-2000:]
        except Exception:
            failure = traceback.format_exc()[-3000:]
    tally.peak = max(tally.peak, peak.bytes())
    if failure is None and peak.bytes() > most:
        failure = f"took {peak.bytes() >> 20} MiB of memory"
    if seen:
        failure = f"{failure or ''} ran or wrote: {'; '.join(seen[:3])}"
    if mark.exists():
        remove(mark)
        failure = f"{failure or ''} code of the input was run"
    return failure


def _read_and_used(target: Target, copy: Path, out: Path, tally: Tally) -> str | None:
    try:
        thing = target.load(copy)
    except (UserError, click.UsageError) as error:
        tally.refused += 1
        named = isinstance(error, click.UsageError) or str(copy) in str(error)
        return None if named else f"refused without naming the file: {error}"
    with suppress(UserError):
        target.use(thing, out)
    tally.loaded += 1
    return None


def past_first_parse(path: Path) -> bool:
    """Whether a file is at least of its format: JSON, YAML, a header of safetensors, gzip."""
    try:
        return _parses(path, path.read_bytes()) if path.is_file() else False
    except Exception:
        return False


def _parses(path: Path, content: bytes) -> bool:
    if path.suffix == ".safetensors":
        length = struct.unpack("<Q", content[:8])[0]
        json.loads(content[8 : 8 + length])
        return bool(8 + length <= len(content))
    if path.suffix == ".parquet":
        return content[:4] == content[-4:] == b"PAR1"
    if path.suffix in (".yaml", ".yml"):
        for _ in islice(yaml.parse(content.decode()), _MOST_EVENTS):  # the rest may be endless
            pass
    elif path.suffix == ".gz":
        gzip.decompress(content)
    elif path.suffix == ".jsonl":
        for line in content.splitlines():
            json.loads(line)
    elif path.suffix == ".json":
        json.loads(content)
    return True


def shares(targets: Sequence[Target], count: int) -> Iterator[tuple[Target, int]]:
    """How many mutations each target gets of so many in all, rounded up."""
    total = sum(target.weight for target in targets)
    for target in targets:
        yield target, math.ceil(count * target.weight / total)


_COLUMNS = ("tried", "parsed", "loaded", "refused", "failed", "places")


def counts(one: Tally) -> dict[str, int]:
    """The figures of a tally by name."""
    failed, places = len(one.failures), len(one.places)
    values = (one.tried, one.parsed, one.loaded, one.refused, failed, places)
    return dict(zip(_COLUMNS, values, strict=True))


def table(tallies: dict[str, Tally]) -> str:
    """Counts as text, a line for each target."""
    lines = [f"{'target':28}" + "".join(f"{name:>9}" for name in _COLUMNS)]
    for name, one in [*tallies.items(), ("all", total(tallies.values()))]:
        lines.append(f"{name:28}" + "".join(f"{value:>9}" for value in counts(one).values()))
    return "\n".join(lines)


def total(tallies: Iterable[Tally]) -> Tally:
    """All of them together."""
    whole = Tally()
    for number, one in enumerate(tallies):
        whole.tried += one.tried
        whole.parsed += one.parsed
        whole.loaded += one.loaded
        whole.refused += one.refused
        whole.failures += one.failures
        whole.places |= {f"{number} {place}" for place in one.places}
        whole.peak = max(whole.peak, one.peak)
    return whole
