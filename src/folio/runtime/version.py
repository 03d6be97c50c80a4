"""The version of Folio, which checkpoints and metrics.json record, and the commit of its code."""

import subprocess
from pathlib import Path

VERSION = "0.1.0"


def git_commit(digits: int = 40) -> str | None:
    """Return the commit of the code, with -dirty if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", f"--abbrev={digits}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # there is no git, or a limit on files or processes: no reason to lose a run's metrics
        return None
    return result.stdout.strip() or None
