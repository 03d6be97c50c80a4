"""TODO folio.training.loggers.registry."""

from pathlib import Path

from lightning.pytorch.loggers import Logger

from folio.config.run import RunConfig
from folio.training.loggers.csv import CSVCurves
from folio.training.loggers.tensorboard import TensorBoard


def build_loggers(config: RunConfig, folder: Path, resumed_at: int | None = None) -> list[Logger]:
    """The loggers that the config names; a run that goes on from a step hides what it wrote after it before."""
    if config.logger.name == "tensorboard":
        return [TensorBoard(folder, purge_step=None if resumed_at is None else resumed_at + 1)]
    if config.logger.name == "csv":
        return [CSVCurves(folder / "csv" / "metrics.csv")]
    return []
