"""Lightning's own loggers, and the user's, as loggers of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from folio.config.run import RunConfig
from folio.runs.description import flatten
from folio.runtime.console import log
from folio.runtime.untrusted import shown
from folio.training.loggers.base import RunLogger


class LightningLogger(RunLogger):
    """Passes scalars and hyperparameters on to a logger of Lightning's interface, which has no texts or figures.

    If the logger fails, as when its server cannot be reached, it is told nothing more, and the run continues.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger
        self._failed = False

    def start_run(self, config: RunConfig, compared: Sequence[str]) -> None:
        self.call("log_hyperparams", flatten(config.model_dump()))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.call("log_metrics", dict(metrics), step)

    def flush(self) -> None:
        self.call("save")

    def finalize(self, status: str) -> None:
        self.call("finalize", status)

    def call(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of the logger, unless it has failed before."""
        if self._failed:
            return
        try:
            getattr(self.logger, method)(*args, **kwargs)
        except Exception as error:
            self._failed = True
            log.warning(f"warning: no more for logger.{self.name}: {type(error).__name__}: {shown(error)}")
