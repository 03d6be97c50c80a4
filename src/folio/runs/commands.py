"""The commands that Folio prints for the user to continue with."""

import shlex
from pathlib import Path

from folio.runtime.commands import python_command


def resume_command(folder: Path) -> str:
    """Return the command that resumes a run."""
    return f"{python_command()} train.py resume={shlex.quote(str(folder))}"


def resume_hint(step: int, folder: Path) -> str:
    """Return the end of a sentence that says from which step a run can be resumed, and with which command."""
    return f"; last.ckpt has step {step}: resume with {resume_command(folder)}"
