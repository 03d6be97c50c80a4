"""How a program begins soon: torch and Lightning imported without the garbage collector looking on."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
