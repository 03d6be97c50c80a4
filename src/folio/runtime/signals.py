"""TODO folio.runtime.signals."""

import os
import signal
import subprocess
from typing import Any

from folio.runtime.console import log


class Interrupted(BaseException):  # not an Exception, which Lightning's loggers would catch
    """A person or a scheduler asked the run to stop; it is saved, unless it was asked twice."""

    def __init__(self, signal_number: int, at_once: bool = False) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.at_once = at_once

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + self.signal_number


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a run to stop. Under SLURM and submitit also the warnings before a time limit or preemption."""
    usual = (signal.SIGINT, signal.SIGTERM)
    scheduled = any(name in os.environ for name in ("SLURM_JOB_ID", "SUBMITIT_EXECUTOR"))
    return (*usual, *WARNINGS) if scheduled else usual


WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What sbatch --signal=USR1@90 and submitit (SIGUSR2) send before they end a job: save, and get in line again."""


def requeue(signal_number: int, handler: Any, is_global_zero: bool = True) -> None:
    """Put a job that was warned, and is saved, in line again; `handler` is whoever listened to the signal before us.

    submitit's own handler, in each process, requeues the job and ends the process. Elsewhere the first process asks
    SLURM. A job that SIGTERM ended is left to SLURM, which requeues what it preempts, and not what a person cancels.
    """
    if signal_number not in WARNINGS:
        return
    if callable(handler):
        handler(signal_number, None)
    elif is_global_zero and (job := os.environ.get("SLURM_JOB_ID")):
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        log.info(f"SLURM's job {job} " + ("is in line again" if done.returncode == 0 else f"ends: {done.stderr}"))
