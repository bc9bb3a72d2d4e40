"""Contenders of the step benchmark take turns, within memory and time, and errors are results."""

from benchmarks.engine.cells import Cell, needed_bytes
from benchmarks.engine.contenders import ContenderError
from benchmarks.engine.measure import measure
from benchmarks.engine.protocol import Case

CASE = Case(architecture="mxd", d_in=8, d_out=6, d_hidden=12, n=20, k=3, tokens=10)


class _Pretender:
    """A contender that keeps a diary instead of a process."""

    def __init__(self, name, diary, first=1.0, broken=False):
        self.name, self.diary, self.first, self.broken = name, diary, first, broken

    def prepare(self, case):
        self.diary.append((self.name, "prepare"))
        if self.broken:
            raise ContenderError("broken")
        return {"parameters": 1, "first_step_seconds": self.first}

    def step(self, repeats):
        self.diary.append((self.name, repeats))
        return [float(len(self.diary))] * repeats

    def peak(self):
        self.diary.append((self.name, "peak"))
        return 7

    def release(self):
        self.diary.append((self.name, "release"))


def _cell(rounds=5, peak=True):
    return Cell(part="steps", case=CASE, contenders=("mxd", "obvious"), rounds=rounds, peak=peak)


def _pretenders(diary, **others):
    return {n: _Pretender(n, diary, **others.get(n, {})) for n in ("mxd", "obvious")}


def test_measure_takes_turns():
    diary = []
    results = measure(_cell(), _pretenders(diary), memory=10**12)
    assert [name for name, what in diary if what == 1] == ["mxd", "obvious"] * 5
    assert diary.count(("mxd", "prepare")) == 1
    assert diary[-4:] == [(n, w) for n in ("mxd", "obvious") for w in ("peak", "release")]
    assert results["mxd"]["seconds"] == [2.0, 5.0, 7.0, 9.0, 11.0]
    assert results["mxd"]["median"] == 7.0
    assert (results["mxd"]["q1"], results["mxd"]["q3"]) == (5.0, 9.0)
    assert results["obvious"]["beyond_bytes"] == 7


def test_measure_stops_at_three_rounds_without_time():
    diary = []
    results = measure(_cell(), _pretenders(diary), memory=10**12, more=lambda: False)
    assert len(results["mxd"]["seconds"]) == 3


def test_measure_repeats_quick_steps_within_a_turn():
    diary = []
    quick = {"mxd": {"first": 0.1}}
    results = measure(_cell(rounds=3), _pretenders(diary, **quick), memory=10**12)
    assert len(results["mxd"]["seconds"]) == 15
    assert len(results["obvious"]["seconds"]) == 3


def test_measure_skips_what_does_not_fit():
    diary = []
    memory = needed_bytes(CASE, "obvious") - 1
    results = measure(_cell(), _pretenders(diary), memory=memory)
    assert "GB" in results["obvious"]["skipped"]
    assert len(results["mxd"]["seconds"]) == 5
    assert "obvious" not in {name for name, _ in diary}


def test_measure_lets_go_between_turns_where_all_do_not_fit():
    diary = []
    memory = needed_bytes(CASE, "obvious") + 1
    results = measure(_cell(), _pretenders(diary), memory=memory)
    present = set()
    for name, what in diary:
        if what == "prepare":
            present.add(name)
        assert len(present) <= 1
        if what == "release":
            present.remove(name)
    assert len(results["obvious"]["seconds"]) == 3
    assert results["mxd"]["beyond_bytes"] == 7


def test_measure_records_errors_and_slow_first_steps():
    diary = []
    others = {"mxd": {"broken": True}, "obvious": {"first": 1000.0}}
    results = measure(_cell(), _pretenders(diary, **others), memory=10**12)
    assert results["mxd"] == {"error": "broken"}
    assert results["obvious"]["median"] == 1000.0
    assert "first step only" in results["obvious"]["note"]
