"""TODO folio.training.callbacks.pruning."""

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.training.callbacks.metrics import MetricLogger
from folio.training.context import Pruner


class TrialPruned(BaseException):  # not an Exception, which Lightning's loggers would catch
    """What a judge has against a run."""


class PruningCallback(Callback):
    """Ends a run that its judge has given up. The last step ends it anyway, and properly."""

    def __init__(
        self, pruner: Pruner, curves: MetricLogger, max_steps: int, distributed: DistributedContext = SINGLE_PROCESS
    ) -> None:
        self.pruner = pruner
        self.curves = curves
        self.max_steps = max_steps
        self.distributed = distributed

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises: Hopeless, in all processes of the run: the first asks for all."""
        reason = self.distributed.broadcast(lambda: self.pruner(trainer.global_step, self.curves.val))
        if reason is not None and trainer.global_step < self.max_steps:
            raise TrialPruned(reason)
