"""Requeue jobs of SLURM and submitit."""

import os
import subprocess
from typing import Any

from folio.runtime.console import log
from folio.runtime.signals import SCHEDULER_WARNINGS


def requeue_job(signal_number: int, previous_handler: Any, is_global_zero: bool = True) -> None:
    """Requeue the job if a scheduler's warning stopped it. Call it once the run is saved.

    submitit installs its own handler in each process, which requeues the job and ends the process; it is passed as
    `previous_handler`, the one that was installed before ours. Otherwise the first process asks SLURM. SIGTERM needs
    nothing: SLURM itself requeues a job that it preempted, and a job that a user cancelled must not be requeued.
    """
    if signal_number not in SCHEDULER_WARNINGS:
        return
    if callable(previous_handler):
        previous_handler(signal_number, None)
    elif is_global_zero and (job := os.environ.get("SLURM_JOB_ID")):
        try:
            result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
            problem = result.stderr if result.returncode else ""
        except OSError as error:
            problem = f"scontrol: {error.strerror}"
        log.info(f"SLURM job {job} ends: {problem}" if problem else f"SLURM job {job} was requeued")
