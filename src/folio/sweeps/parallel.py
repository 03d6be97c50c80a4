"""Jobs side by side in processes of their own: how they hear of a signal, and how many threads each may have."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from folio.runtime.errors import FolioError
from folio.sweeps.manifest import read_record

STOP = ".stopping"
"""A file in the folder of a sweep that is being stopped: no job begins any more."""

_PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>."""


def is_worker() -> bool:
    """Whether this process was started to run jobs of a sweep that another one leads."""
    return multiprocessing.parent_process() is not None or "Loky" in multiprocessing.current_process().name


def become_worker() -> None:
    """Hear of a signal once, from the process that leads the sweep, and of its death as of a SIGTERM.

    A terminal sends Ctrl-C to the whole process group; a worker that got it from there and from the leader would stop
    at once and save nothing.
    """
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def may_begin(sweep: Path) -> bool:
    """Asked after the job has entered its process in sweep.json: either it sees the stop, or the leader sees it."""
    return not (sweep / STOP).exists()


class Stop:
    """The signal that the leader got, if any."""

    number: int | None = None


@contextmanager
def signals_to_workers(sweep: Path) -> Iterator[Stop]:
    """Hand SIGINT and SIGTERM on to the jobs that run, which save and end; a second one ends them at once."""
    stop = Stop()

    def hand_on(number: int, frame: FrameType | None) -> None:
        if stop.number is None:
            os.write(2, b"stopping the jobs after their step; once more stops at once\n")
        stop.number = number
        (sweep / STOP).touch()
        with suppress(FolioError):
            for entry in read_record(sweep)["jobs"]:
                if "pid" in entry:
                    with suppress(ProcessLookupError):
                        os.kill(entry["pid"], number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        (sweep / STOP).unlink(missing_ok=True)
