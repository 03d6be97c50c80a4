"""What a process has taken of main memory. Imports no torch."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """Now; where the system does not tell, the most so far."""
    return _from_status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most so far. Not by getrusage on Linux: there a process begins with the peak of the one that started it."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Let the most so far be what is taken now, where the system can: a job of a sweep is not charged for another's."""
    with suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")


def _from_status(name: str) -> int | None:
    if not STATUS.is_file():
        return None
    fields = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    return int(fields[name].split()[0]) * 1024 if name in fields else None
