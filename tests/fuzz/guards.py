"""What no input may cause: endless work, much memory, code that runs, files elsewhere."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 30
"""What one input may take; each takes milliseconds on a machine at rest."""
MEMORY = 96 << 20
"""Bytes that any input may take beyond its own size: what a parser of its largest form needs."""
_ADDRESS_SPACE = 3 << 30
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen")
_LOADING = ("pickle.find_class", "socket.connect", "ctypes.dlopen")
_CHANGING = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_IN_FOLDERS = ("os.mkdir", "os.remove", "os.rmdir")
"""Those whose last argument may be an open folder that the path is in."""
_HOMES = tuple({sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])})


class TookTooLongError(BaseException):
    """The watchdog's; no `except Exception` of the library swallows it."""


@dataclass
class Watch:
    """What an audit hook saw while it was told to look."""

    allowed: Path | None = None
    """The folder that files may be written to; None while nobody looks."""
    seen: list[str] = field(default_factory=list)
    """What should not have happened."""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python for every audited event."""
        if self.allowed is None:
            return
        if event in _RUNNING or (event in _LOADING and arguments != (None,)):  # its own symbols
            self.seen.append(f"{event} {str(arguments)[:200]}")
        elif event == "exec":
            name = getattr(arguments[0], "co_filename", "?")
            if not name.startswith(_HOMES) and not name.startswith("<"):
                self.seen.append(f"exec {name}")
        elif (event == "open" and _writes(arguments)) or event in _CHANGING:
            self._check_place(event, arguments)

    def _check_place(self, event: str, arguments: tuple[Any, ...]) -> None:
        path, last = arguments[0], arguments[-1]
        if isinstance(path, (str, bytes)):
            open_folder = event in _IN_FOLDERS and last >= 0
            base = os.readlink(f"/proc/self/fd/{last}") if open_folder else "."  # noqa: PTH115
            place = os.path.abspath(os.path.join(base, os.fsdecode(path)))  # noqa: PTH100, PTH118
            if not place.startswith((str(self.allowed), "/dev/null")):
                self.seen.append(f"{event} {place[:200]}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wxa+")
    return isinstance(flags, int) and bool(flags & _WRITING)


_watch: Watch | None = None


@contextmanager
def watched(allowed: Path) -> Iterator[list[str]]:
    """List what runs, loads or writes outside a folder; a hook stays for good, so there is one."""
    global _watch  # noqa: PLW0603
    if _watch is None:
        _watch = Watch()
        sys.addaudithook(_watch)
    _watch.seen, _watch.allowed = [], allowed
    try:
        yield _watch.seen
    finally:
        _watch.allowed = None


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `TookTooLongError` where the inside does not end."""

    def stop(*_: Any) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def within_memory() -> Iterator[None]:
    """Let giant allocations fail, also those of memory that nobody touches."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Peak:
    """The largest resident memory since `start`, beyond what was there then, in bytes."""

    def __init__(self) -> None:
        self._before = 0
        self.start()

    def start(self) -> None:
        """Begin anew."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")

    def bytes(self) -> int:
        """How much more memory was in use at one time."""
        return max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
