"""The Triton kernels are right, in a process of their own; their package needs no Triton."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mxd.kernels import triton as kernels

HERE = Path(__file__).parent
OPTIONS = "addopts=--import-mode=importlib"
CHECKED = f"{OPTIONS} --jaxtyping-packages=mxd.kernels,beartype.beartype"


@pytest.mark.skipif(not kernels.available(), reason="Triton is not installed")
def test_kernels_are_right() -> None:
    """Interpreted, unless there is a GPU to compile them for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", CHECKED]
    ran = subprocess.run(
        [*command, str(HERE / "triton_cases.py")],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout


def test_available_says_whether_triton_is_installed() -> None:
    try:
        importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        assert not kernels.available()
    else:
        assert kernels.available()


def test_only_using_a_kernel_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mxd.kernels.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("mxd.kernels.triton", kernels)  # put back when the test ends
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not there
    package = importlib.import_module("mxd.kernels.triton")
    assert not package.available()
    for name in set(package.__all__) - {"available"}:
        with pytest.raises(ModuleNotFoundError, match="triton"):
            getattr(package, name)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        package.other  # noqa: B018
