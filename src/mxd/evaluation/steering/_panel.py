"""Several judges asked about the same sets, and what becomes of one that cannot go on."""

from collections.abc import Sequence
from typing import Any

from mxd.errors import UserError
from mxd.evaluation.judging import Judge, JudgeStopped, Verdict


class Panel:
    """Asks every judge that still answers."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        names = [judge.name for judge in judges]
        if len(set(names)) < len(names):
            raise UserError(f"got judges of the same name ({', '.join(names)}); give each its own")
        self._judges = judges
        self.stopped: dict[str, str] = {}
        """Judges that could not go on, and why."""

    def score(self, sets: Sequence[Sequence[str]]) -> list[dict[str, Verdict]]:
        """For each set of samples a verdict by the name of each judge."""
        if not sets:
            return []
        columns = {judge.name: self._verdicts(judge, sets) for judge in self._judges}
        return [{name: of[number] for name, of in columns.items()} for number in range(len(sets))]

    def usage(self) -> list[dict[str, Any]]:
        """What each judge was asked and what that cost; sets it was never asked about included."""
        return [{"name": judge.name, **judge.usage.to_dict()} for judge in self._judges]

    def _verdicts(self, judge: Judge, sets: Sequence[Sequence[str]]) -> list[Verdict]:
        if judge.name in self.stopped:
            judge.usage.verdicts += len(sets)
            judge.usage.failed += len(sets)
            return [Verdict(failure="not asked: the judge had stopped")] * len(sets)
        try:
            return judge.score(sets)
        except JudgeStopped as stop:
            self.stopped[judge.name] = str(stop)
            return stop.verdicts
