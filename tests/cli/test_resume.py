"""`mxd fit --resume` as a user gives it: signals, exit codes, what is said."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.cli._parts import read_json, small
from tests.torture.attempt import Attempt
from tests.torture.outcome import fingerprints

from mxd.training.checkpoints import saved_steps


def long(text, out, **flags):
    """The flags of a run that lasts until it is stopped."""
    return small(text=text, out=out, tokens=12_800, checkpoint_every=3, **flags)


def popen(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mxd", *map(str, arguments)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
        preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 (it takes no lock)
    )  # fmt: skip


def _hears_ctrl_c():
    """Whatever started the tests may have them ignore it, as shells do in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_a_checkpoint(process, out, seconds=120):
    limit = time.monotonic() + seconds
    while not saved_steps(out):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit, "no checkpoint"
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_the_run_and_it_goes_on_to_the_same_bytes(
    cli, saved, text, tmp_path, number, code
):
    out, whole = tmp_path / "run", tmp_path / "whole"
    flags = long(text, out)
    process = popen("fit", saved("gpt2"), *flags)
    wait_for_a_checkpoint(process, out)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert f"got {number.name}" in err
    last = err.strip().splitlines()[-1]
    step = saved_steps(out)[0]
    assert f"interrupted; saved at step {step} in {out}" in last
    assert "--resume" in last
    assert "Traceback" not in err
    assert read_json(out / "run.json")["complete"] is False
    assert fingerprints(out)  # the layers as far as they were trained
    log = tmp_path / "log.txt"
    for arguments in ([*flags, "--resume"], long(text, whole)):
        Attempt(["fit", str(saved("gpt2")), *arguments], log).succeed()
    assert f"mxd: resumed from step {step}\n" in log.read_text()
    assert fingerprints(out) == fingerprints(whole)
    again = cli.succeeds("fit", saved("gpt2"), *flags, "--resume")
    assert "is finished: nothing to resume" in again.out.replace("\n", " ")


def test_resume_says_what_changed(cli, saved, text, tmp_path, caplog):
    out = tmp_path / "run"
    flags = small(text=text, out=out, checkpoint_every=3)
    cli.succeeds("fit", saved("gpt2"), *flags, "--resume")
    again = ["fit", saved("gpt2"), *flags, "--resume", "--json", tmp_path / "run.json"]
    assert "nothing to resume" in cli.succeeds(*again).out.replace("\n", " ")
    assert read_json(tmp_path / "run.json")["complete"] is True
    sentence = cli.refuses(
        ["fit", saved("gpt2"), *flags, "--resume", "--tokens", 1280, "--log-every", 1],
        "tokens: 768 there, 1280 here", "--accept-changes tokens,log_every",
    )  # fmt: skip
    assert "Traceback" not in sentence
    cli.succeeds(
        "fit", saved("gpt2"), *flags, "--resume", "--tokens", 1280, "--accept-changes", "tokens"
    )
    assert "resumed from step 12" in caplog.text
    assert read_json(out / "run.json")["data"]["tokens_trained"] == 1280
    cli.refuses(["fit", saved("gpt2"), *flags, "--resume", "--overwrite"], "one of them")
    cli.refuses(["fit", saved("gpt2"), *flags, "--accept-changes", "tokens"], "--resume")


def test_second_process_in_the_same_run_is_refused(cli, saved, text, tmp_path):
    out = tmp_path / "run"
    flags = long(text, out)
    process = popen("fit", saved("gpt2"), *flags)
    try:
        wait_for_a_checkpoint(process, out)
        result = cli("fit", saved("gpt2"), *flags, "--resume")
        assert result.code == 2
        assert "another training is writing to" in result.err
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
