"""A logger that fails costs a warning, never the run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from folio.config.run import RunConfig
from folio.runtime.console import log
from folio.runtime.errors import explain_os_error
from folio.runtime.untrusted import shown
from folio.training.loggers.base import Outcome, RunLogger


class GuardedLogger(RunLogger):
    """Passes everything on to a logger until it raises, as when a disk is full or a server cannot be reached.

    Then it warns, and the logger is told nothing more. All loggers of a run are wrapped in this one. A callback that
    wants more of a logger than the interface has finds its attributes here too: `trainer.logger.experiment`.
    """

    def __init__(self, logger: RunLogger) -> None:
        super().__init__()
        self.logger = logger
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        if name in ("logger", "_failed"):  # before __init__, as in a copy
            raise AttributeError(name)
        try:
            if not self._failed:
                return getattr(self.logger, name)
        except AttributeError:
            raise
        except Exception as error:  # Lightning asks for `experiment`, which may open files or connect to a server
            self._fail(error)
        raise AttributeError(f"logger.{self.name} has failed and has no {name}")

    @property
    def shows_figures(self) -> bool:  # type: ignore[override]
        return self.logger.shows_figures and not self._failed

    def open(self, name: str, folder: Path, resumed_at: int | None = None) -> None:
        super().open(name, folder, resumed_at)
        self._call(self.logger.open, name, folder, resumed_at)

    def start_run(self, config: RunConfig, compared: Sequence[str]) -> None:
        self._call(self.logger.start_run, config, compared)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._call(self.logger.log_metrics, metrics, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        self._call(self.logger.log_text, name, text, step)

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        self._call(self.logger.log_figure, name, figure, step)

    def log_results(self, results: Mapping[str, Any]) -> None:
        self._call(self.logger.log_results, results)

    def flush(self) -> None:
        self._call(self.logger.flush)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._call(self.logger.after_save_checkpoint, checkpoint_callback)

    def finalize(self, status: str) -> None:
        self._call(self.logger.finalize, status)

    def end_run(self, outcome: Outcome) -> None:
        self._call(self.logger.end_run, outcome)

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        if self._failed:
            return
        try:
            method(*args)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            warn_of_failure(self.name, error)
        self._failed = True


def warn_of_failure(name: str, error: Exception) -> None:
    """Say that a logger logs nothing more, and why."""
    reason = explain_os_error(error) if isinstance(error, OSError) else None
    reason = reason or f"{type(error).__name__}: {shown(error)}"
    log.warning(f"warning: logger.{name} has failed and logs nothing more: {reason}")
