"""The `logger` section of the config: the loggers and their keys."""

from typing import ClassVar, Literal

from folio.config.section import Option


class LoggerConfig(Option):
    """`code` is a `folio.training.loggers.base.RunLogger`, called with its config, the run folder and resumed_at."""

    name: str


class TensorBoardConfig(LoggerConfig):
    """Metrics, samples, figures and hyperparameters for TensorBoard."""

    code: ClassVar[str] = "folio.training.loggers.tensorboard:TensorBoardLogger"
    name: Literal["tensorboard"]


class CSVConfig(LoggerConfig):
    """Metrics in a CSV file."""

    code: ClassVar[str] = "folio.training.loggers.csv:CSVLogger"
    name: Literal["csv"]


class NoLoggerConfig(LoggerConfig):
    """No curves."""

    code: ClassVar[str] = "folio.training.loggers.base:RunLogger"
    name: Literal["none"]


Loggers = TensorBoardConfig | CSVConfig | NoLoggerConfig
"""Every logger; a new one is added here."""
