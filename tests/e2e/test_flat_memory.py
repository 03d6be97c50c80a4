"""A long run needs no more memory and open files than a short one."""

import os
from pathlib import Path

from workspace import TINY, Workspace

LONG = (
    *TINY,
    "training.max_steps=2000",
    "training.validate_every_steps=10",  # 200 times, and a sample with each
    "training.log_every_steps=5",
    "training.checkpoint_every_steps=40",
    "callbacks.samples.max_new_tokens=20",
)
GROWTH_BYTES = 8 << 20
"""Allowed growth between the 50th and the 200th validation, or 5 KB in each of 1,500 steps."""


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_memory_and_open_files_stay_flat_over_2000_steps_200_validations_and_200_samples(workspace: Workspace) -> None:
    process = workspace.start("train.py", *LONG)
    assert process.stdout is not None
    memory: dict[int, int] = {}
    files: dict[int, int] = {}
    for line in process.stdout:
        if ": val loss" in line:
            step = int(line.split()[1].rstrip(":"))
            memory[step], files[step] = resident_bytes(process.pid), open_files(process.pid)
    process.stdout.close()
    assert process.wait() == 0
    # The minimum of ten readings: at each, a checkpoint or an event file may be open.
    early, late = (min(files[step] for step in range(first, first + 100, 10)) for first in (500, 1900))
    print(f"step 500: {memory[500] / 2**20:.1f} MiB, {early} files")
    print(f"step 1990: {memory[1990] / 2**20:.1f} MiB, {late} files")
    assert memory[1990] - memory[500] < GROWTH_BYTES
    assert late <= early
