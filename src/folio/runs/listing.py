"""List run folders with their configs and metrics. Imports no torch.

Their contents are untrusted data: nothing in them runs, and what is damaged is named in a warning and left out.
"""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from folio.config.migrations import migrate_config
from folio.runs.description import flatten
from folio.runs.folders import read_config
from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable
from folio.runtime.untrusted import read_json_object

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class RunRecord:
    """A run folder as it is on disk. `folio.load` opens its model, if it has a checkpoint."""

    folder: Path
    status: str
    """`finished`, `interrupted`, `diverged`, `pruned`, `failed`, `unfinished` or `dry run`."""
    config: dict[str, Any]
    """Values by dotted key, as on the command line: `config["optimizer.learning_rate"]`."""
    metrics: dict[str, Any]
    """The content of metrics.json; empty until the run ends. `metrics["val/loss_nats"]` is the final loss."""

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        loss = self.metrics.get("val/loss_nats")
        measured = f", {loss:.4f} nats" if isinstance(loss, int | float) and math.isfinite(loss) else ""
        mode = self.metrics.get("debug")  # its numbers are no results
        debug = f", debug={mode}" if mode else ""
        return printable(f"{self.folder}: {self.status}{measured}{debug}", keep="")


@dataclass(frozen=True, repr=False)
class RunList(Sequence[RunRecord]):
    """Run folders, sorted by path, which is by date and time."""

    records: tuple[RunRecord, ...]

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...

    @overload
    def __getitem__(self, index: slice) -> "RunList": ...

    def __getitem__(self, index: int | slice) -> "RunRecord | RunList":
        return RunList(self.records[index]) if isinstance(index, slice) else self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.records)) or "no runs"

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row for each run: its status, the keys of its config, and its metrics.

        Raises: FolioError if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise FolioError("to_pandas() needs pandas; install it with: pip install pandas") from None
        rows = [{"status": run.status} | run.config | flatten(run.metrics) for run in self.records]
        return pandas.DataFrame(rows, index=pandas.Index([str(run.folder) for run in self.records], name="folder"))


def list_runs(folder: str | os.PathLike[str] = "outputs") -> RunList:
    """Return the runs in and below a folder, with those of sweeps. Damaged ones are left out, with a warning.

    Raises: FolioError if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FolioError(f"{root} is not a folder; give a run folder, a sweep, or a folder that holds some")
    records = []
    for path in filter(is_run, walk_runs(root)):
        try:
            records.append(read_record(path))
        except FolioError as error:
            warnings.warn(f"{printable(str(error), keep='')}; this run is left out", stacklevel=2)
    return RunList(tuple(records))


def read_record(folder: Path) -> RunRecord:
    """Return the record of a run folder. Raises: FolioError if a file of it is damaged."""
    config = flatten(migrate_config(read_config(folder))) if (folder / "config.yaml").is_file() else {}
    metrics = read_metrics(folder)
    status = metrics.get("status", "dry run" if config.get("dry_run") is True else "unfinished")
    return RunRecord(folder, str(status), config, metrics)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of a run folder's metrics.json; empty if there is none. Raises: FolioError if damaged."""
    file = folder / "metrics.json"
    try:
        return read_json_object(file) if file.is_file() else {}
    except (FolioError, OSError):
        raise FolioError(f"{file} is damaged") from None


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run. A job that failed early has metrics.json only."""
    return any((folder / name).is_file() for name in ("metrics.json", "config.yaml", "preflight.json"))


def walk_runs(folder: Path) -> Iterator[Path]:
    """Yield the folder and those below it, but not those below runs. Links are not followed: they may form a circle."""
    for parent, below, _ in os.walk(folder):
        path = Path(parent)
        below[:] = [] if is_run(path) else sorted(name for name in below if not name.startswith("."))
        yield path
