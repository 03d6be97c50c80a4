"""Number of processors that this process may use."""

import os


def available_cpus() -> int:
    """Return how many processors this process may use, which a cluster or `taskset` can limit."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
