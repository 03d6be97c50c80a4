"""Memory of a process: its peak is measured per run, and freed blocks are returned to the system."""

import platform
import subprocess
import sys

import pytest

from folio.runtime.memory import CLEAR_REFS, peak_bytes, resident_bytes

MIB = 2**20

# Each program runs in a process of its own, because other tests allocate and free memory in this one.
RESET_PEAK = """
from folio.runtime.memory import reset_peak, peak_bytes
large = b"x" * (200 * 2**20)
before = peak_bytes()
del large
print(before, peak_bytes())
reset_peak()
print(peak_bytes())
"""

FREE_BLOCKS = """
import torch
from folio.runtime.memory import LARGE_BYTES, return_freed_blocks

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def kept_bytes(n_bytes):
    blocks, before = [torch.ones(n_bytes // 4) for _ in range(8)], resident_bytes()
    del blocks
    return 8 * n_bytes - (before - resident_bytes())

torch.ones(1).sum()
return_freed_blocks()
print(kept_bytes(2 * LARGE_BYTES), kept_bytes(LARGE_BYTES // 4))  # small ones leave a hole that fits a large one
"""


def numbers_printed_by(program: str) -> list[int]:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [int(word) for word in result.stdout.split()]


def test_the_peak_is_at_least_the_current_memory() -> None:
    assert 10 * MIB < resident_bytes() <= peak_bytes() + 16 * MIB  # pages come and go between the two


@pytest.mark.skipif(sys.platform != "linux" or not CLEAR_REFS.exists(), reason="only Linux can reset the peak")
def test_the_peak_of_one_run_does_not_count_for_the_next() -> None:
    before, after_free, after_reset = numbers_printed_by(RESET_PEAK)
    assert min(before, after_free) > 200 * MIB
    assert after_reset < before - 150 * MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="without glibc nothing is changed")
def test_large_blocks_are_returned_at_once_and_small_ones_are_kept_for_the_next_step() -> None:
    large, small = numbers_printed_by(FREE_BLOCKS)
    assert large < 1_000_000  # of 64 MB
    assert small > 7_000_000  # of 8 MB
