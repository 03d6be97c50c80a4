"""TODO folio.training.loggers.csv."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from folio.runtime.console import log


class CSVCurves(Logger):
    """Appends scalars to a CSV file of (step, name, value), a line each and at once.

    Lightning's CSVLogger deletes the lines of the run so far when the run goes on, and writes a hundred steps late.
    """

    name, version = "csv", ""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self._failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            self._append(metrics, step)
        except OSError as error:
            if not self._failed:
                log.warning(f"warning: curves are being lost: {self.file}: {error.strerror}")
            self._failed = True

    def _append(self, metrics: Mapping[str, float], step: int | None) -> None:
        is_new = not self.file.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, value) for name, value in metrics.items())

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in config.yaml."""
