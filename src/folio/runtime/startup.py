"""The start of a program: its streams and signals, and faster imports of torch and Lightning."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from folio.runtime.signals import exit_on_signals
from folio.runtime.streams import guard_standard_streams


def prepare_process() -> None:
    """Make a program print without ever failing, and end at signals in one line. Call it before slow imports."""
    guard_standard_streams()
    exit_on_signals()
    columns = os.environ.get("COLUMNS", "1")
    if not columns.isdecimal() or int(columns[:9]) == 0:
        del os.environ["COLUMNS"]  # rich would make every line empty


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
