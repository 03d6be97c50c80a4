"""Where the curves of a run go, and what TensorBoard's HParams tab shows of it."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import hparams

from folio.config import RunConfig


def build_loggers(config: RunConfig, folder: Path) -> list[Logger]:
    """The loggers that the config names; version="" keeps a resumed run in the same files."""
    if config.logger.name == "tensorboard":
        return [TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)]
    if config.logger.name == "csv":
        return [CSVCurves(folder / "csv" / "metrics.csv")]
    return []


class CSVCurves(Logger):
    """Appends scalars to a CSV file of (step, name, value), a line each and at once.

    Lightning's CSVLogger deletes the lines of the run so far when the run goes on, and writes a hundred steps late.
    """

    name, version = "csv", ""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        is_new = not self.file.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(("step", "name", "value"))
            writer.writerows((step, name, value) for name, value in metrics.items())

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in config.yaml."""


def write_hparams(folder: Path, config: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Enter a run in TensorBoard's HParams tab with its final metrics.

    By a writer of its own, since the logger's is closed by now and its log_hyperparams would write the metrics
    again, as scalars of step 0.
    """
    shown = {key: value for key, value in metrics.items() if key.startswith(("val/", "train/")) and value is not None}
    writer = FileWriter(str(folder))
    for summary in hparams(flatten(config), shown):
        writer.add_summary(summary)
    writer.close()


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested config to dotted keys with values that TensorBoard can sort."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
