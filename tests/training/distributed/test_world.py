"""Joining and leaving a run of several processes, whatever becomes of one of them."""

import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from tests.training.distributed import _world_checks
from tests.training.distributed.ranks import DONE, HangingError, assert_done, run_ranks

from mxd.errors import UserError
from mxd.training.distributed import is_lost, under_torchrun, world

LOST = "LostProcessError: another process of this run was lost or did not answer in time"
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "1"}  # fmt: skip


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert not under_torchrun()
    with world() as here:
        assert (here.rank, here.size, here.device) == (0, 1, torch.device("cpu"))
        assert here.speaks
        assert here.alone
        assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MASTER_ADDR": None}, "without MASTER_ADDR, expected all that torchrun sets"),
        ({"LOCAL_RANK": "", "MASTER_PORT": None}, "without LOCAL_RANK, MASTER_PORT"),
        ({"RANK": "one"}, "got RANK='one', .*expected the numbers that torchrun sets"),
        ({"RANK": "2"}, "got RANK='2', WORLD_SIZE='2'"),
    ],
)
def test_half_an_environment_is_refused(
    change: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**TORCHRUN, **change}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message), world():
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="got local rank 0 with 0 GPUs"), world("cuda"):
        pass


def test_rank_0_alone_speaks() -> None:
    assert_done(run_ranks(_world_checks.speaks_alone, 2))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others(ranks: int, victim: int) -> None:
    said = run_ranks(_world_checks.dies, ranks, victim, int(signal.SIGKILL))
    assert said.pop(victim) == "exit -9"
    assert all(LOST in words and "--resume" in words for words in said), said


def test_a_rank_killed_between_the_passes_ends_the_others() -> None:
    *others, victim = run_ranks(_world_checks.dies_in_a_layer, 3)
    assert victim == "exit -9"
    assert all(LOST in words for words in others), others


def test_an_error_on_one_rank_ends_the_others() -> None:
    said = run_ranks(_world_checks.fails, 3, 1)
    assert "UserError: got a broken shard" in said.pop(1)
    assert all(LOST in words for words in said), said


def test_a_rank_that_fails_leaves_word_and_one_that_is_stopped_does_not() -> None:
    said = run_ranks(_world_checks.leaves_word, 3)
    assert "UserError: got a broken shard" in said.pop(1)
    assert all(words.strip().endswith("KeyboardInterrupt") for words in said), said
    said = run_ranks(_world_checks.is_stopped, 2)
    assert said[0] == DONE or LOST in said[0], said


def test_a_silent_rank_is_given_up() -> None:
    said = run_ranks(_world_checks.is_silent, 2, 1, timeout=1.0)
    assert LOST in said[0]
    assert LOST in said[1]


def test_the_watchdog_ends_what_hangs() -> None:
    with pytest.raises(HangingError, match=r"ranks \[0, 1\] did not end"):
        run_ranks(_world_checks.hangs, 2, patience=1.5)


def test_a_defect_is_no_lost_process() -> None:
    enforced = "[enforce fail at gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes"
    assert not is_lost(RuntimeError(enforced))
    assert not is_lost(RuntimeError("shape '[2]' is invalid for input of size 3"))
    assert is_lost(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    assert is_lost(dist.DistBackendError("NCCL error in: ...: remote process exited"))


def test_a_single_process_imports_none_of_it() -> None:
    code = (
        "import sys, mxd.training\n"
        "print([name for name in sys.modules if name.startswith('mxd.training.distributed')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_rank_is_done() -> None:
    assert run_ranks(_world_checks.speaks_alone, 1) == [DONE]
