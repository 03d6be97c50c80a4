"""Run a command for as long as it may take. Imports no torch."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 8.0
"""Time that a command has to save what it has measured, after Ctrl-C."""

TAIL_LINES = 30


@dataclass(frozen=True)
class Outcome:
    """The end of a command."""

    code: int
    """Exit code; -n if signal n ended it."""
    timed_out: bool
    output_tail: str
    """The last lines that it printed."""


def run_within(
    command: Sequence[str], seconds: float, *, folder: Path, environment: Mapping[str, str], log: Path
) -> Outcome:
    """Run a command in a folder. After so many seconds it is interrupted, and if that does not help, killed.

    So are the processes that it started: they are in one session.

    Args:
        log: file for its output.
    """
    with (
        log.open("w", encoding="utf-8", errors="replace") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        ) as process,
    ):
        timed_out = False
        try:
            process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            timed_out = True
            _signal(process, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        finally:  # after an error or Ctrl-C in this process, too
            _signal(process, signal.SIGKILL)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return Outcome(process.returncode, timed_out, "\n".join(lines[-TAIL_LINES:]))


def _heed_interrupts() -> None:
    """Undo what a shell does to commands in its background, whose children ignore Ctrl-C as well."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole session has ended
        os.killpg(process.pid, number)
