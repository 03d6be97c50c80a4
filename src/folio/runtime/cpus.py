"""The processors that this process may use, and how busy they are. Imports nothing slow."""

import math
import os
from functools import cache
from pathlib import Path

from folio.runtime.untrusted import read_text

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of a container or a service."""

PROC_STAT = Path("/proc/stat")
"""Where Linux counts how long each processor has worked since the start of the machine."""


def available_cpus(cgroups: Path = CGROUPS) -> int:
    """Return how many processors this process may use, which a cluster, a container or `taskset` can limit."""
    n_cpus, quota = len(allowed_cpus()), _cpu_quota(cgroups)
    return n_cpus if quota is None else max(1, min(n_cpus, math.ceil(quota)))


@cache
def allowed_cpus() -> frozenset[int]:
    """Return the processors that this process may use, also while `CrowdWatcher` keeps to fewer of them."""
    # os.sched_getaffinity does not exist on macOS.
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def _cpu_quota(cgroups: Path) -> float | None:
    """Return how many processors' time a control group (version 2) grants this process; None if it sets no limit.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max.
    """
    try:
        quota, period = read_text(cgroups / "cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no Linux, no limit, or an older version
        return None


def worked_seconds(proc_stat: Path = PROC_STAT) -> dict[int, float]:
    """Return for how long each processor of the machine has worked for any process. Empty if unknown.

    Time that a virtual machine wanted and did not get counts too: someone else had the processor.
    Source: Linux, Documentation/filesystems/proc.rst, section 1.7.
    """
    try:
        rows = [line.split() for line in read_text(proc_stat).splitlines()]
        ticks = os.sysconf("SC_CLK_TCK")
        return {
            # user, nice, system, idle, iowait, irq, softirq, steal
            int(row[0].removeprefix("cpu")): (sum(map(int, row[1:4])) + sum(map(int, row[6:9]))) / ticks
            for row in rows
            if row and row[0].startswith("cpu") and row[0] != "cpu"
        }
    except (OSError, ValueError):  # no Linux
        return {}


def other_load() -> float:
    """Return how many other threads wanted a processor in the last minute, on average. 0 where no system tells.

    Call it at the start of a program: afterwards the figure includes its own.
    """
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def describe_overload(n_threads: int, load: float) -> str | None:
    """Say that n_threads more would have to wait for processors; None if there are enough.

    Args:
        load: how many other threads want a processor.
    """
    n_cpus = os.cpu_count() or 1  # the load, too, is that of the whole machine
    if load < 0.9 or load + n_threads < n_cpus + 0.9:
        return None
    return (
        f"this machine is busy: {load:.1f} other threads and {n_threads} of this run share {n_cpus} processors, so "
        "it is slower than it would be alone"
    )
