"""The short form of `make torture`: a few kills of a real command line."""

from tests.torture.commands import fit_command, prepare
from tests.torture.harness import torture


def test_killed_runs_end_with_the_same_bytes(tmp_path):
    prepare(tmp_path)
    command = fit_command(tmp_path, steps=30, every=2)
    toll = torture(command, tmp_path, kills=5, seed=1)
    assert toll.kills == 5
    assert toll.during_writes >= 1
    assert toll.finished >= 1
    assert toll.resumed_from
