"""The start of a program: its streams and signals, and faster imports of torch and Lightning."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from folio.runtime.environment import check_environment, correct_environment
from folio.runtime.errors import FolioError, explain_machine_error
from folio.runtime.signals import exit_on_signals
from folio.runtime.streams import guard_standard_streams


def prepare_process() -> None:
    """Make a program print without ever failing, and end in one line at signals and at errors of the machine.

    Call it before slow imports. Raises: SystemExit if the environment makes every run impossible.
    """
    guard_standard_streams()
    exit_on_signals()
    sys.excepthook = _report_uncaught
    correct_environment()
    try:
        check_environment()
    except FolioError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nothing caught, as during the first imports: in one line if it is the machine's."""
    message = explain_machine_error(error)
    if message is None:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(2)  # a hook cannot set the exit code in any other way


@contextmanager
def fast_imports() -> Iterator[None]:
    """Pause the garbage collector during imports that last for the whole run, and exempt them from it afterwards.

    torch and Lightning create 600,000 objects that live to the end. The collector would walk through them many times
    while they are created, and again in each full collection between two steps. The garbage of the imports that is
    never collected is 2 % of the memory they take.

    In a later job of a sweep everything is already imported. Then nothing changes, because the garbage of the previous
    job must stay collectable.
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
