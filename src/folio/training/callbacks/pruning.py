"""End a trial of a hyperparameter search that is worse than others."""

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.training.callbacks.metrics import MetricLogger
from folio.training.context import Pruner


class TrialPruned(BaseException):  # not an Exception, which Lightning's loggers would catch
    """Raised to prune a trial; its message is the reason."""


class PruningCallback(Callback):
    """Asks the pruner after each validation whether to end the run."""

    def __init__(
        self, pruner: Pruner, metrics: MetricLogger, max_steps: int, distributed: DistributedContext = SINGLE_PROCESS
    ) -> None:
        self.pruner = pruner
        self.metrics = metrics
        self.max_steps = max_steps
        self.distributed = distributed

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metrics to the pruner. Raises: TrialPruned in all processes; the last step ends normally."""
        reason = self.distributed.broadcast(lambda: self.pruner(trainer.global_step, self.metrics.val))
        if reason is not None and trainer.global_step < self.max_steps:
            raise TrialPruned(reason)
