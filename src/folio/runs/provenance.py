"""The versions and the commit that a run used."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from folio.runtime.version import VERSION


def versions() -> dict[str, str]:
    """Return the versions of everything that affects the numbers of a run."""
    return {
        "folio": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
    }


def git_commit() -> str | None:
    """Return the commit of the code, with -dirty if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # there is no git, or a limit on files or processes: no reason to lose a run's metrics
        return None
    return result.stdout.strip() or None
