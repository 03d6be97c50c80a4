"""The processors that this process may use, and how busy they are. Imports nothing slow."""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

from folio.runtime.untrusted import read_text

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of a container or a service."""

SPIN_COUNT = "30000"
"""How often a thread of libgomp, torch's pool of threads, looks for its next work before it sleeps.

By default it looks ten times as often. That gains nothing on a quiet machine, and on a busy one it keeps a processor
from the thread that all others wait for.
"""


def available_cpus(cgroups: Path = CGROUPS) -> int:
    """Return how many processors this process may use, which a cluster, a container or `taskset` can limit."""
    # os.sched_getaffinity does not exist on macOS.
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroups)
    return n_cpus if quota is None else max(1, min(n_cpus, math.ceil(quota)))


def _cpu_quota(cgroups: Path) -> float | None:
    """Return how many processors' time a control group (version 2) grants this process; None if it sets no limit.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max.
    """
    try:
        quota, period = read_text(cgroups / "cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no Linux, no limit, or an older version
        return None


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Choose how torch's idle threads wait, unless the user has. Call it before torch is imported."""
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT


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
