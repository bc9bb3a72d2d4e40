"""`mxd fit` under torchrun, started as a user starts it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.cli._parts import contents, read_json, small
from tests.torture.outcome import difference

LONGEST = 300
"""Seconds after which it counts as hung."""
ROUNDING = 2e-5
"""Absolute difference of weights that the order of sums may make in twelve steps."""


def torchrun(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mxd"]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *map(str, arguments)], cwd=folder, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, timeout=LONGEST,
    )  # fmt: skip


def test_two_processes_train_what_one_does_and_say_it_once(cli, saved, text, tmp_path):
    flags = small(text=text, arch="mxd,transcoder", text_shards=2, checkpoint_every=5)
    layout = ["--layout", "data=2", "--resume"]
    result = torchrun(tmp_path, "fit", saved("gpt2"), *flags, *layout, "--out", "run")
    assert result.returncode == 0, result.stderr
    shown = result.stdout.splitlines()
    assert shown[0].startswith("Training 2 layers at each of 1 sites")
    assert shown[-2:] == ["Run: run", "Next: mxd eval run"]
    for line in (shown[0], shown[-2], shown[-1]):
        assert shown.count(line) == 1
    assert len(re.findall(r"^  transcoder\S*: NMSE", result.stdout, re.MULTILINE)) == 1
    assert "Traceback" not in result.stderr
    cli.succeeds("fit", saved("gpt2"), *flags, "--out", "alone")
    run, alone = tmp_path / "run", tmp_path / "alone"
    assert difference(run, alone) <= ROUNDING
    records = [read_json(folder / "run.json") for folder in (run, alone)]
    for key in ("data", "students", "complete"):
        assert records[0][key] == records[1][key], key


def test_mistake_is_one_sentence(saved, text, tmp_path):
    flags = small(text=text, layout="data=3", out="run")
    result = torchrun(tmp_path, "fit", saved("gpt2"), *flags)
    assert result.returncode != 0
    assert "/mxd/" not in result.stderr  # the one traceback is the launcher's
    assert contents(tmp_path) == {}
    lines = [line for line in result.stderr.splitlines() if line.startswith("mxd: ")]
    # The launcher stops the others once one has ended.
    (line,) = [line for line in lines if not line.startswith("mxd: interrupted")]
    assert line.startswith("mxd: got layout 'data=3' for 2 processes, expected sizes whose product")
