"""How many bytes a process receives from the others, by what they are for."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_open: list[Counter[str]] = []


@contextmanager
def counted_traffic() -> Iterator[Counter[str]]:
    """Count, for as long as the context is open, the bytes that collectives bring to this process.

    Yields:
        Bytes by kind: `gather` (rows of all ranks), `swap` (rows to and from the ranks that own
        them), `sum` (gradients and counters), `agree` (what ranks agree on).
    """
    counter: Counter[str] = Counter()
    _open.append(counter)
    try:
        yield counter
    finally:
        _open.remove(counter)


def received(kind: str, size: int) -> None:
    """Add `size` bytes to every counter that is open."""
    for counter in _open:
        counter[kind] += size
