"""Folio trains GPT-style transformers from scratch: a Hydra + PyTorch Lightning research template.

    import folio
    run = folio.load("latest")  # a run folder, a checkpoint file, or "latest"
    print(run.generate("ROMEO:"), run.loss("To be, or not to be").bits_per_byte)
    better = folio.train(["model=mini", "seed=2"])  # as python train.py model=mini seed=2
    table = folio.runs("outputs").to_pandas()

Importing it takes no time: each function imports what it needs when it is called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from folio.runtime.version import VERSION

if TYPE_CHECKING:
    from folio.api.load import load
    from folio.api.loaded_run import LoadedRun
    from folio.api.train import train
    from folio.runs.listing import RunList, RunRecord
    from folio.runs.listing import list_runs as runs
    from folio.runtime.errors import FolioError

__version__ = VERSION

__all__ = ["FolioError", "LoadedRun", "RunList", "RunRecord", "__version__", "load", "runs", "train"]

_MODULES = {
    "load": "api.load",
    "LoadedRun": "api.loaded_run",
    "train": "api.train",
    "RunList": "runs.listing",
    "RunRecord": "runs.listing",
    "FolioError": "runtime.errors",
}


def __getattr__(name: str) -> Any:
    """Import a name of the Python API when it is first used, and torch only when a function needs it."""
    if name == "runs":
        return import_module("folio.runs")  # which can be called
    if name in _MODULES:
        return getattr(import_module(f"folio.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
