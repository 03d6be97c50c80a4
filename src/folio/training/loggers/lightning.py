"""Lightning's own loggers, and the user's, as loggers of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from folio.config.run import RunConfig
from folio.runs.description import flatten
from folio.training.loggers.base import Outcome, RunLogger, final_numbers


class LightningLogger(RunLogger):
    """Passes scalars, hyperparameters and final metrics on to a logger of Lightning's interface.

    That interface has no texts, no figures, and no way to continue a run: a resumed run is a new one to such a logger.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger

    def __getattr__(self, name: str) -> Any:
        if name == "logger":  # before __init__, as in a copy
            raise AttributeError(name)
        return getattr(self.logger, name)

    def start_run(self, config: RunConfig, compared: Sequence[str]) -> None:
        self.logger.log_hyperparams(flatten(config.model_dump()))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logger.log_metrics(dict(metrics), step)

    def log_results(self, results: Mapping[str, Any]) -> None:
        self.logger.log_metrics(final_numbers(results), results["step"])

    def flush(self) -> None:
        self.logger.save()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.logger.after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        """Wait for `end_run`: when Lightning calls this, the results are still to come."""

    def end_run(self, outcome: Outcome) -> None:
        self.logger.finalize("success" if outcome == "finished" else "failed")
