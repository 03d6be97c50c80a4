"""A malicious pickle."""

import os
from pathlib import Path
from typing import Any


class Gadget:
    """Creates the file `canary` when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)
