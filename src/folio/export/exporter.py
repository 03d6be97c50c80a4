"""The formats of scripts/export.py for other programs, and what each of them can do. Imports no torch."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from folio.config.run import RunConfig

if TYPE_CHECKING:
    from folio.runs.checkpoints import LoadedCheckpoint

MODULES = {"huggingface": "folio.export.huggingface", "gguf": "folio.export.gguf"}
"""--format -> the module that has it. A new format is added here."""


class Exporter(NamedTuple):
    """One format: three functions, in the order in which they are called. All raise FolioError in one line.

    Example:

        >>> find_exporter("huggingface").check_run.__name__
        'check_run'
    """

    check_destination: Callable[[Path, bool], None]
    """Checks that DEST can be written, and may be replaced if the second argument is true."""
    check_run: Callable[[RunConfig], None]
    """Checks that the format can hold the model of a run, without torch."""
    export: Callable[["LoadedCheckpoint", Path, Path, bool], str]
    """Writes a model, from a checkpoint at a path, to DEST, and returns what to print."""


def find_exporter(name: str) -> Exporter:
    """Import the module of a format."""
    module = import_module(MODULES[name])
    return Exporter(module.check_destination, module.check_run, module.export)
