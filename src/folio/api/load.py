"""`folio.load`: open a trained model. Imports torch when it is called, and never Lightning."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folio.runs.folders import find_checkpoint
from folio.runs.listing import read_metrics
from folio.runtime.errors import FolioError
from folio.runtime.startup import fast_imports

if TYPE_CHECKING:
    from folio.api.loaded_run import LoadedRun


def load(
    run: str | os.PathLike[str] = "latest",
    *,
    checkpoint: str = "best",
    output_dir: str | os.PathLike[str] = "outputs",
    device: str = "auto",
) -> "LoadedRun":
    """Return the trained model of a run, with its tokenizer, config and metrics.

    Args:
        run: a run folder, a checkpoint file, or `latest`; also what `folio.train` and `folio.runs` return.
        checkpoint: which checkpoint of a run folder: `best`, `last`, `epoch=N` or `step=N`.
        output_dir: the folder in which `latest` looks for runs.
        device: `auto`, `cpu`, `gpu` or `mps`.

    Raises: FolioError.
    """
    path = find_checkpoint(os.fspath(run), Path(output_dir), checkpoint)
    with fast_imports():
        from folio.api.loaded_run import LoadedRun
        from folio.distributed.devices import device_from_name
        from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, device_from_name(device))
    return LoadedRun(path, trained, _metrics_of(path) or {f"val/{name}": value for name, value in trained.val.items()})


def _metrics_of(checkpoint: Path) -> dict[str, Any]:
    """Return the metrics of the run folder of a checkpoint; empty for a checkpoint without one."""
    if checkpoint.parent.name != "checkpoints":
        return {}
    try:
        return read_metrics(checkpoint.parent.parent)
    except FolioError as error:  # the model is whole
        warnings.warn(f"{error}; its metrics are those in the checkpoint", stacklevel=3)
        return {}
