import os
import subprocess
import sys

from tests.cli._parts import contents, small

from mxd._version import __version__


def _mxd(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "mxd", *(str(argument) for argument in arguments)],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_module_is_the_command(tmp_path):
    result = _mxd(tmp_path, "--version")
    assert (result.returncode, result.stdout) == (0, f"mxd, version {__version__}\n")
    assert result.stderr == ""


def test_refusal_is_one_line_and_nothing_else(tmp_path, saved):
    result = _mxd(tmp_path, "fit", saved("gpt2"), *small(text="no/dataset"))
    assert result.returncode == 2
    assert result.stdout.startswith("Training 1 layers")
    assert result.stderr.startswith("mxd: got 'no/dataset'")
    assert result.stderr.count("\n") == 1
    assert contents(tmp_path) == {}


def test_warnings_are_one_line_each(tmp_path, saved, text):
    result = _mxd(tmp_path, "fit", saved("gpt2"), *small(text=text, tokens=4096, out="run"))
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == "Next: mxd eval run"
    (line,) = result.stderr.splitlines()
    assert line.startswith("mxd: the text is used up after")
