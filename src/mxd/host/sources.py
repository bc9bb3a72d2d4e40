"""Where a language model comes from: a folder, or the hub; and what to say when it gives none."""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers.utils.hub import cached_file

from mxd.errors import UserError

CHECK_CONFIG = "look at its config.json"
"""What to do about a configuration that describes no model."""
_HUB_TIMEOUT = 5.0  # seconds; the hub's own client tries again for half a minute and more
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass
class Source:
    """A model's name, and how transformers is to look for it."""

    name: str
    """Hub id, or folder."""
    options: dict[str, Any]
    """Keyword arguments of `from_pretrained`."""
    known: bool = False
    """Whether one of its files was found."""
    commit: str | None = None
    """The commit on the hub that its files are of."""

    @property
    def offline(self) -> bool:
        """Whether the hub cannot be reached, so that only its local cache is there."""
        return bool(self.options.get("local_files_only"))

    def file(self, name: str) -> Path | None:
        """Where one of its files is, fetched where it has to be; None where there is no such file.

        The first one that comes from the hub binds all later ones to its commit.
        """
        folder = Path(self.name)
        if folder.is_dir():
            return folder / name if os.path.lexists(folder / name) else None
        how = {key: value for key, value in self.options.items() if key != "trust_remote_code"}
        found = cached_file(self.name, name, **how, _raise_exceptions_for_missing_entries=False)
        if found is None:
            return None
        path, self.known = Path(found), True
        if path.parent.parent.name == "snapshots" and _COMMIT.fullmatch(path.parent.name):
            self.commit = self.options["revision"] = path.parent.name
        return path

    @contextmanager
    def refused(self, expected: str, remedy: str = "check the name") -> Iterator[None]:
        """Turn what transformers raises over files or a hub that are not as they should be.

        Args:
            expected: what is.
            remedy: what to do about it.
        """
        try:
            yield
        except UserError:
            raise
        except BaseException as error:  # a panic of tokenizers' Rust is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise self.refusal(error, expected, remedy) from error

    def refusal(
        self, reason: BaseException | str, expected: str, remedy: str = "check the name"
    ) -> UserError:
        """The error that says why this is no model."""
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        said = " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
        said = said.rstrip(".")
        if isinstance(reason, LookupError):
            said = f"{type(reason).__name__}: {said}"
        if self.offline and not self.known:
            return UserError(
                f"got {self.name!r}, which is neither a folder nor in the local cache, and the hub "
                f"cannot be reached; expected {expected}; check the name, or go online"
            )
        return UserError(
            f"got {self.name!r}, which cannot be loaded ({said}), expected {expected}; {remedy}"
        )


def find_source(name_or_path: str | Path, revision: str | None, expected: str) -> Source:
    """Where to look for a model.

    Args:
        name_or_path: hub id, or folder of a saved model.
        revision: branch, tag or commit on the hub.
        expected: what it should be.

    Raises:
        UserError: a path where no folder is.
    """
    path = Path(name_or_path).expanduser()
    there = path.exists()
    name = str(path) if there else str(name_or_path)
    if (there and not path.is_dir()) or (not there and not _is_hub_id(name_or_path)):
        what = "is no folder" if there else "does not exist"
        raise UserError(f"got {name!r}, which {what}, expected {expected}; check the path")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    if not there and not _hub_answers():
        options["local_files_only"] = True
    return Source(name, options)


def _is_hub_id(name: str | Path) -> bool:
    """Whether it reads as `name` or `owner/name`, and not as a path."""
    parts = str(name).split("/")
    return (
        isinstance(name, str)
        and len(parts) <= 2
        and all(part and not part.startswith((".", "~")) for part in parts)
    )


def _hub_answers() -> bool:
    """Whether the hub may be asked: a look at the door, since its client knocks for very long."""
    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if address.hostname is None or urllib.request.getproxies():
        return True  # a proxy stands between: only the client knows
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname, port), timeout=_HUB_TIMEOUT):
            return True
    except OSError:
        return False
