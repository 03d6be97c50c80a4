"""Find the run of a SLURM job that was requeued: it starts again with the same command, and must resume."""

import os
from pathlib import Path

from folio.runtime.files import check_writable, write_atomically
from folio.runtime.untrusted import KIB, read_text

JOBS_FOLDER = ".jobs"
"""Folder in the output folder with one file per SLURM job, which holds the path of its run folder."""

MAX_PATH_BYTES = 64 * KIB
"""Limit for such a file; Linux allows paths of 4 KiB."""


def requeued_run(output_dir: Path) -> Path | None:
    """Return the run of this job before it was requeued; None at the first start and without a checkpoint.

    Raises: FolioError if the file that names it is not regular, or a link leads out of the run folder; OSError.
    """
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
        return None
    file = _job_file(output_dir)
    folder = Path(read_text(file, MAX_PATH_BYTES)) if file and file.exists() else None
    if folder is None or not (folder / "checkpoints" / "last.ckpt").is_file():
        return None
    check_writable(folder)
    return folder


def remember_job(output_dir: Path, folder: Path) -> None:
    """Store the run folder of this SLURM job, if it is one."""
    if (file := _job_file(output_dir)) and os.environ.get("SLURM_PROCID", "0") == "0":
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, str(folder).encode())


def _job_file(output_dir: Path) -> Path | None:
    job = os.environ.get("SLURM_JOB_ID", "")
    return output_dir / JOBS_FOLDER / job if job.isdigit() else None
