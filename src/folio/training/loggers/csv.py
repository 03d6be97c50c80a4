"""Metrics in a CSV file."""

import csv
from collections.abc import Mapping
from pathlib import Path

from folio.training.loggers.base import RunLogger


class CSVLogger(RunLogger):
    """Appends metrics to csv/metrics.csv as rows of (step, name, value), at once.

    Lightning's CSVLogger deletes the earlier rows when a run is resumed, and writes a hundred steps late.
    """

    @property
    def file(self) -> Path:
        """The file of the metrics."""
        return self.folder / "csv" / "metrics.csv"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        is_new = not self.file.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, value) for name, value in metrics.items())
