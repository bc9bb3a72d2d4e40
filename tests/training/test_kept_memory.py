"""Freed memory stays while a training lasts, and goes back to the system afterwards."""

import subprocess
import sys

import pytest

from mxd.training.kept_memory import _glibc

PROGRAM = """
import torch
from mxd.training.kept_memory import kept_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

def used_and_freed():
    before = resident()
    del_me = torch.ones(100_000_000 // 4)
    during = resident()
    del del_me
    return during - before, resident() - before

used_and_freed()
outside = used_and_freed()
with kept_memory():
    inside = used_and_freed()
    # What came between may need a part of the freed block; then the next one is kept as well.
    again = min(used_and_freed() for _ in range(3))
afterwards = used_and_freed()
print(*outside, *inside, *again, *afterwards)
"""


@pytest.mark.skipif(_glibc() is None, reason="another allocator than glibc's")
def test_memory_is_kept_inside_and_given_back_afterwards() -> None:
    """In a process of its own, since what other tests freed could be handed out again."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    outside, left, inside, kept, again, kept_still, _, left_afterwards = map(
        float, ran.stdout.split()
    )
    assert outside > 90
    assert left < 20  # gone
    assert inside > 90
    assert kept > 80  # still there
    assert again < 20  # the same memory once more
    assert kept_still < 20
    assert left_afterwards < 20
