"""The interface of Folio's loggers: Lightning's, with texts, figures, and the start, results and end of a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from folio.config.run import RunConfig

Outcome = Literal["finished", "failed", "stopped"]
"""How a run ended. One that was stopped can be resumed."""


class RunLogger(Logger):
    """Ignores everything; a logger overrides what it can show. Only rank 0 of a run has one.

    What a logger raises ends its logging and not the run: see `GuardedLogger`.
    """

    version = ""
    shows_figures = False
    """Whether `log_figure` does something; drawing takes time."""
    folder: Path
    """The run folder."""
    resumed_at: int | None = None
    """Step at which the run was resumed. It logs again what it logged after that step before."""

    def open(self, name: str, folder: Path, resumed_at: int | None = None) -> None:
        """Learn the name of the option and the run; nothing is logged before."""
        self._name, self.folder, self.resumed_at = name, folder, resumed_at

    @property
    def name(self) -> str:
        return self._name

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def start_run(self, config: RunConfig, compared: Sequence[str]) -> None:
        """Log the config before the first step; `compared` are the keys in which related runs differ."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars."""

    def log_text(self, name: str, text: str, step: int) -> None:
        """Log a text in Markdown."""

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Log a figure."""

    def log_results(self, results: Mapping[str, Any]) -> None:
        """Log the content of metrics.json, which a run writes when it ends, also if it can be resumed."""

    def flush(self) -> None:
        """Write everything logged so far to disk."""

    def end_run(self, outcome: Outcome) -> None:
        """Log the end of the run."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Ignore Lightning's hyperparameters: `start_run` has the config."""


def final_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of metrics.json, without those that are the last points of curves."""
    return {
        name: float(value)
        for name, value in results.items()
        if isinstance(value, int | float) and not name.startswith(("train/", "val/"))
    }


def run_loggers(trainer: L.Trainer) -> list[RunLogger]:
    """Return the loggers of this process; none on ranks other than 0."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


@contextmanager
def logged_run(loggers: Sequence[RunLogger], config: RunConfig, compared: Sequence[str]) -> Iterator[None]:
    """Tell the loggers when the run starts, and how it ended."""
    outcome: Outcome = "stopped"  # by a signal or a pruner, which raise no Exception
    try:
        for logger in loggers:
            logger.start_run(config, compared)
        yield
        outcome = "finished"
    except Exception:
        outcome = "failed"
        raise
    finally:
        for logger in loggers:
            logger.end_run(outcome)
