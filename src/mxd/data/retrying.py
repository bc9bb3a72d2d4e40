"""Open a source of text again when it fails for a while, and go on where it stopped."""

import gzip
import hashlib
import logging
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from errno import EDQUOT, ELOOP, ENAMETOOLONG, ENOSPC, EROFS

from mxd.data.damage import DamagedError
from mxd.data.documents import Document
from mxd.data.patience import CLOCK, Clock, SourceStalledError, watched
from mxd.errors import UserError

_NETWORK = {
    "aiohttp", "asyncio", "fsspec", "http", "httpcore", "httpx", "huggingface_hub", "requests",
    "socket", "ssl", "urllib3",
}  # fmt: skip
"""Packages whose errors are about a connection, whatever they derive from."""
_LASTING = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError,
    gzip.BadGzipFile,
)  # fmt: skip
_LASTING_NUMBERS = {EDQUOT, ELOOP, ENAMETOOLONG, ENOSPC, EROFS}
_PASSING_STATUS = {408, 425, 429}
_LOCAL_TRIES = 4
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RetryOptions:
    """How patient a reading is with a source that fails or says nothing."""

    tries: int = 40
    """Failures in a row, without a document in between, after which it ends; 1 never tries again.
    Files of this machine get 4 at most."""
    first_seconds: int | float = 1.0
    """Longest wait before the second try; it doubles with each further one. Waits are drawn from
    the upper half, so that many readers do not come back at the same moment."""
    longest_seconds: int | float = 60.0
    """Longest wait of all."""
    total_seconds: int | float = 1800.0
    """Time without a document after which no further try is made."""
    stall_seconds: int | float = 600.0
    """Time after which a source of the network that says nothing counts as failed."""
    seed: int = 0
    """Seed of the waits."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise UserError(f"got tries={self.tries}, expected 1 or more; 1 never tries again")
        for name in ("first_seconds", "longest_seconds", "total_seconds", "stall_seconds"):
            if not getattr(self, name) > 0:
                raise UserError(f"got {name}={getattr(self, name)}, expected more than 0")

    def of_files(self) -> "RetryOptions":
        """The same for files of this machine: what they fail with rarely passes."""
        return replace(self, tries=min(self.tries, _LOCAL_TRIES))


def retried(
    open_pass: Callable[[], Iterator[Document]],
    name: str,
    options: RetryOptions,
    *,
    stalls: bool = False,
    clock: Clock = CLOCK,
) -> Generator[Document, None, None]:
    """One pass over a source, opened again as often as it fails for a while.

    The documents given before are read again and passed over; a running checksum makes sure that
    they are the same. The order stays that of the source, and no document is held.

    Args:
        open_pass: starts the pass anew, with the same documents in the same order.
        name: what the user would call the source.
        options: how often it is tried.
        stalls: read in a thread, so that a source that blocks can be given up.
        clock: tells the time, sleeps, and waits for the thread.

    Raises:
        UserError: it failed too often, or gave other documents when it was opened again.
    """
    given, digest = 0, hashlib.sha256()
    waits = _Waits(name, options, clock)
    while True:
        documents = _opened(open_pass, name, options, stalls, clock)
        try:
            with closing(documents):
                _pass_over(documents, given, digest.hexdigest(), name)
                for document in documents:
                    given += 1
                    digest.update(_mark(document))
                    yield document
                    waits.begin()
            return
        except Exception as error:
            if not is_passing(error):
                raise
            waits.after(error)


def is_passing(error: BaseException | None) -> bool:
    """Whether an error may be gone at the next try: of the network or a device, not of content.

    What a `UserError` was made from decides, and so on along the explicit causes.
    """
    while error is not None and not isinstance(error, DamagedError):
        known = _judged(error)
        if known is not None:
            return known
        error = error.__cause__
    return False


def _judged(error: BaseException) -> bool | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    status = getattr(error, "status", None) if status is None else status
    if isinstance(status, int) and status >= 400:
        return status >= 500 or status in _PASSING_STATUS
    if isinstance(error, _LASTING) or getattr(error, "errno", None) in _LASTING_NUMBERS:
        return False
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if isinstance(error, OSError) or packages & _NETWORK:
        return True
    return None


def _opened(
    open_pass: Callable[[], Iterator[Document]],
    name: str,
    options: RetryOptions,
    stalls: bool,
    clock: Clock,
) -> Generator[Document, None, None]:
    if stalls:
        yield from watched(open_pass, name, options.stall_seconds, clock)
    else:
        yield from open_pass()


def _mark(document: Document) -> bytes:
    """What tells a document from another: its key, and how long it is."""
    content = document.text if document.text is not None else document.token_ids or ()
    key = document.key.encode("utf-8", "surrogatepass")
    return b"%d %d " % (len(key), len(content)) + key


def _pass_over(documents: Iterator[Document], count: int, digest: str, name: str) -> None:
    """Read what was given already, and compare."""
    found, missing = hashlib.sha256(), count
    while missing:
        document = next(documents, None)
        if document is None:
            break
        found.update(_mark(document))
        missing -= 1
    if missing or found.hexdigest() != digest:
        raise UserError(
            f"got other documents from {name} when it was opened again after a failure, expected "
            f"the {count} that it gave before, in the same order; wait until it no longer changes, "
            "or use a local copy, and start again"
        )


class _Waits:
    """Counts failures since the last document."""

    def __init__(self, name: str, options: RetryOptions, clock: Clock) -> None:
        self._name, self._options, self._clock = name, options, clock
        self._draw = random.Random(options.seed)
        self.begin()

    def begin(self) -> None:
        """A document is asked for that was not asked for before."""
        self._failures, self._asked = 0, self._clock.now()

    def after(self, error: Exception) -> None:
        """Wait after a failure.

        Raises:
            UserError: it was the last.
        """
        options, said = self._options, _in_one_line(error)
        self._failures += 1
        elapsed = self._clock.now() - self._asked
        left = options.total_seconds - elapsed
        if self._failures >= options.tries or left <= 0:
            raise UserError(
                f"got no further document from {self._name} in {self._failures} tries over "
                f"{elapsed:.0f} s, expected one (the last error was: {said}); mend the source or "
                "the connection, or use a local copy; a training with checkpoints then goes on "
                "with --resume"
            ) from error
        longest = min(options.first_seconds * 2.0 ** (self._failures - 1), options.longest_seconds)
        seconds = min(longest * self._draw.uniform(0.5, 1), left)
        _logger.warning(
            "%s failed (%s); try %d of %d follows in %.1f s",
            self._name,
            said,
            self._failures + 1,
            options.tries,
            seconds,
        )
        self._clock.sleep(seconds)


def _in_one_line(error: BaseException) -> str:
    """The error itself, rather than the sentence that was made of it for the user."""
    while isinstance(error, UserError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SourceStalledError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'without a message'}"
