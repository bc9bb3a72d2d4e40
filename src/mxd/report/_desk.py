"""Where a chapter's pictures go, and what stands above each of them."""

import re
from pathlib import Path

from mxd.report._show import compact, number
from mxd.report.combining import Group


class Desk:
    """Names for the files of one chapter: plain, short and each used once."""

    def __init__(self, figures: Path, group: Group, *, prefix: str, command: str) -> None:
        self._figures, self._prefix, self._used = figures, prefix, set[tuple[str, str]]()
        self.group = group
        self.command = command
        """The command to name where a result does not say what made it."""

    def stem(self, name: str) -> Path:
        """Path of a picture, without its ending."""
        return self._figures / self._free(name, "pictures")

    def name(self, name: str) -> str:
        """Name of a table's file, without its ending."""
        return self._free(name, "tables")

    def _free(self, name: str, kind: str) -> str:
        plain = self._prefix + (re.sub(r"[^a-zA-Z0-9._-]+", "-", name).strip("-.")[:60] or "x")
        free, number = plain, 2
        while (kind, free) in self._used:
            free, number = f"{plain}-{number}", number + 1
        self._used.add((kind, free))
        return free

    def made_by(self, document: dict[str, object]) -> str:
        """The command that made a document."""
        return str(document.get("command") or self.command)

    def facts(self, *more: str | None) -> list[str]:
        """What the line below a picture's title says."""
        trained = number(self.group.tokens_trained())
        amount = None if trained is None else f"trained on {compact(trained)} tokens"
        return [fact for fact in (self.group.model, amount, *more) if fact]
