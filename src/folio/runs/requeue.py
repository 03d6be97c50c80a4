"""Jobs that a scheduler starts again, with the same words, and that must go on where they were.

Imports nothing that takes time.
"""

import os
from pathlib import Path

from folio.runtime.files import write_atomically

JOBS = ".jobs"
"""In the output folder: for each job of SLURM, the run folder that it made."""


def requeued_run(output_dir: Path) -> Path | None:
    """The run that this job trained before it was requeued; None at its first start, or before a first checkpoint."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
        return None
    note = _note(output_dir)
    folder = Path(note.read_text(encoding="utf-8")) if note and note.is_file() else None
    return folder if folder and (folder / "checkpoints" / "last.ckpt").is_file() else None


def remember_job(output_dir: Path, folder: Path) -> None:
    """Note which run folder is that of this job of SLURM, if it is one."""
    if (note := _note(output_dir)) and os.environ.get("SLURM_PROCID", "0") == "0":
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, str(folder).encode())


def _note(output_dir: Path) -> Path | None:
    job = os.environ.get("SLURM_JOB_ID", "")
    return output_dir / JOBS / job if job.isdigit() else None
