"""Stop a program on a signal: at once before training starts, after the current step while it trains.

Imports nothing slow: entry points call `exit_on_signals` before their other imports.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from folio.runtime.streams import write_to_stderr

STOP_NOTICE = b"stopping after this step; a second signal stops at once\n"

SCHEDULER_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that sbatch --signal=USR1@90 and submitit (SIGUSR2) send some time before they end a job."""


class Interrupted(BaseException):  # not an Exception, which Lightning's loggers would catch
    """A user or a scheduler stopped the run with a signal. The run was saved, unless a second signal arrived."""

    def __init__(self, signal_number: int, at_once: bool = False) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.at_once = at_once

    @property
    def exit_code(self) -> int:
        """The exit code that shells use: 128 + the signal's number."""
        return 128 + self.signal_number


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop a training: under SLURM and submitit also the warnings before a time limit.

    SIGHUP, which a terminal sends when its connection drops, is one of them, unless nohup made the program ignore it.
    """
    scheduled = any(name in os.environ for name in ("SLURM_JOB_ID", "SUBMITIT_EXECUTOR"))
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hangup, *(SCHEDULER_WARNINGS if scheduled else ()))


def asks_to_hurry(number: int) -> bool:
    """Return whether a second signal, of this number, means to stop at once.

    A shell repeats SIGHUP to all of its jobs when its terminal goes away, which is no second wish.
    """
    return number != signal.SIGHUP


def exit_on_signals() -> None:
    """Make Ctrl-C, SIGTERM and SIGHUP end the program in one line with exit code 128 + n, without unfinished files.

    From its first to its last step a training stops in another way: `folio.training.callbacks.stopping`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


@contextmanager
def ignore_signals_at_exit() -> Iterator[None]:
    """Run a program that called `exit_on_signals`, and keep its exit code and last lines once it has ended.

    Python takes half a second to unload torch. A signal in that time would print a traceback or kill the process.
    """
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is _exit:
                signal.signal(number, signal.SIG_IGN)


def _exit(number: int, frame: FrameType | None) -> None:
    write_to_stderr(f"stopped by {signal.Signals(number).name}\n".encode())
    raise SystemExit(128 + number)
