"""The short form of `make torture`: a few kills of a real command line."""

from tests.torture.commands import fit_command, prepare
from tests.torture.harness import Way, torture


def test_killed_runs_end_with_the_same_bytes(tmp_path):
    prepare(tmp_path)
    command = fit_command(tmp_path, steps=30, every=2)
    toll = torture(command, tmp_path, kills=5, seed=1)
    assert toll.kills == 5
    assert toll.during_writes >= 1
    assert toll.finished >= 1
    assert toll.resumed_from


def test_two_processes_of_which_one_is_killed_end_with_the_same_bytes(tmp_path):
    prepare(tmp_path)
    command = fit_command(tmp_path, steps=16, every=2, divided="experts", layers=1)
    toll = torture(command, tmp_path, kills=3, seed=1, way=Way((2,), one_alone=True))
    assert toll.kills == 3
    assert toll.finished >= 1
    assert toll.resumed_from
