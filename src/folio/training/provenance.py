"""What a run was made with."""

import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import torch

import folio


def versions() -> dict[str, str]:
    """Of what decides the numbers of a run."""
    return {
        "folio": folio.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
    }


def git_commit() -> str | None:
    """The commit of the code, with -dirty where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def python_command() -> str:
    """What to type for the interpreter that runs this: `python`, or its path where `python` is another one."""
    found = shutil.which("python")
    if found and Path(found).samefile(sys.executable) and Path(found).parent == Path(sys.executable).parent:
        return "python"
    executable = Path(sys.executable)
    return shlex.quote(str(executable.relative_to(Path.cwd()) if executable.is_relative_to(Path.cwd()) else executable))
