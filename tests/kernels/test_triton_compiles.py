"""The Triton kernels compile for GPUs that are not here, and read 16 bytes at a time."""

import importlib
import os
from typing import Any

import pytest

from mxd.kernels import triton as kernels

pytestmark = [
    pytest.mark.skipif(not kernels.available(), reason="Triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted"),
]

ROWS = {"BLOCK_K": 16, "BLOCK_D": 256}
SEGMENTS = {"PIECE": 512, "BLOCK_T": 16, "BLOCK_D": 256}
GROUPS = {"GROUP": 32, "BIASED": True}
KERNELS = {
    "_rows._weighted_rows": ROWS,
    "_rows._row_products": ROWS,
    "_scatter._short_segments": SEGMENTS,
    "_scatter._pieces_of_long_segments": SEGMENTS,
    "_scatter._join_pieces": SEGMENTS,
    "_topk._group_maxima": {**GROUPS, "BLOCK": 64},
    "_topk._gather_members": {**GROUPS, "BLOCK": 1024},
}
INDICES = {"indices", "order", "starts", "chosen"}
SUMS = {"partial", "maxima", "members", "bias"}
SIZES = {"k", "kept", "groups", "terms", "d", "n", "stride"}
ALIGNED = {"d", "n", "stride"}


def pointer(name: str) -> str:
    if name in INDICES:
        return "*i64"
    return "*i32" if name == "units" else "*fp32" if name in SUMS else "*bf16"


def machine_code(path: str, constants: dict[str, Any]) -> str:
    """The PTX of a kernel for a Hopper GPU, whose widths are multiples of 16."""
    language = importlib.import_module("triton.language")
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    options = importlib.import_module("mxd.kernels.triton._blocks").OPTIONS
    module, name = path.split(".")
    kernel = getattr(importlib.import_module(f"mxd.kernels.triton.{module}"), name)
    constants = {**constants, "SUM": language.float32}
    signature = {
        arg: "constexpr" if arg in constants else "i32" if arg in SIZES else pointer(arg)
        for arg in kernel.arg_names
    }
    aligned = [
        i
        for i, arg in enumerate(kernel.arg_names)
        if arg in ALIGNED or signature[arg].startswith("*")
    ]
    source = compiler.ASTSource(
        kernel,
        signature=signature,
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    compiled = compiler.compile(source, target=target, options=options)
    return str(compiled.asm["ptx"])


@pytest.mark.parametrize(("path", "constants"), KERNELS.items(), ids=KERNELS.keys())
def test_kernel_compiles_for_a_hopper_gpu(path: str, constants: dict[str, Any]) -> None:
    code = machine_code(path, constants)
    assert ".target sm_90" in code
    assert ".entry" in code
    reads = [line for line in code.splitlines() if "ld.global" in line]
    assert any("v4.b32" in line for line in reads), "no read of 16 bytes"
