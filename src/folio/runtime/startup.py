"""How a program begins soon, and ends in one line at Ctrl-C. Imports nothing that takes time."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import what stays for the whole run here, and keep it out of the garbage collector's way ever after.

    torch and Lightning make 600,000 objects that live to the end. The collector would walk through them again and
    again while they are made, and once more in each full collection between two steps. What they leave to collect is
    2 % of the memory that the imports take.

    A later job of a sweep finds all imported; then nothing changes, because what the job before it left behind must
    stay collectable.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end_at_signals() -> None:
    """Let Ctrl-C and SIGTERM end the program with one line and exit code 128 + n; what is being written is removed.

    A training has a better way to stop, from its first step to its last: `folio.training.callbacks.stopping`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


@contextmanager
def undisturbed_end() -> Iterator[None]:
    """Run a program that has called `end_at_signals`; what has ended keeps its exit code and its last words.

    Python takes half a second to let go of torch. A signal in that time would stop it with a traceback from there, or
    kill it.
    """
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is _end:
                signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    # Past sys.stderr, in the middle of whose writing the signal may have come.
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    raise SystemExit(128 + number)
