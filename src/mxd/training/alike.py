"""Whether all processes of a run were started alike: else they would train apart without a word."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from mxd.errors import UserError

Listed = Callable[[list[Any]], list[Any]]
"""The entries of all processes, in their order (`Team.listed`)."""


def check_alike(said: Mapping[str, Any], listed: Listed) -> None:
    """Compare what every process was given; of each part a hash travels.

    Args:
        said: plain data by names that a user knows, such as `recipe.tokens`; the same names on all.
        listed: tells what all have.

    Raises:
        UserError: on all of them; it names the ranks that differ from the first one, and in what.
    """
    found = listed([{name: _hash(value) for name, value in said.items()}])
    unlike: dict[int, list[str]] = {}
    for rank, hashes in enumerate(found):
        names = [name for name in {**found[0], **hashes} if hashes.get(name) != found[0].get(name)]
        if names:
            unlike[rank] = names
    if unlike:
        who = ", ".join(map(str, unlike))
        what = ", ".join(dict.fromkeys(name for names in unlike.values() for name in names))
        raise UserError(
            f"got another {what} on rank {who} than on rank 0, expected all processes of a run "
            "started alike; give the same command, files and versions everywhere"
        )


def parts_of(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of something, by names that say what they are part of."""
    return {f"{name}.{part}": content for part, content in value.items()}


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
