"""What is freed goes back to the system, where glibc does as it is told."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from folio.runtime.allocator import LARGE_BYTES, return_large_blocks

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def kept_bytes(n_bytes):
    blocks, before = [torch.ones(n_bytes // 4) for _ in range(8)], resident_bytes()
    del blocks
    return 8 * n_bytes - (before - resident_bytes())

torch.ones(1).sum()
return_large_blocks()
print(kept_bytes(2 * LARGE_BYTES), kept_bytes(LARGE_BYTES // 4))  # small ones leave a hole that fits a large one
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc here, so nothing is changed")
def test_large_blocks_go_back_at_once_and_small_ones_stay_for_the_next_step() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    large, small = map(int, answer.stdout.split())
    assert large < 1_000_000  # of 64 MB
    assert small > 7_000_000  # of 8 MB
