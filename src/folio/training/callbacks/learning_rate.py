"""Set the learning rate of each step."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.optim.optimizers import set_learning_rate
from folio.training.module import LanguageModel


class LearningRate(Callback):
    """Gives the optimizer the learning rate of the step before anything reads it, such as a LearningRateMonitor."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModel)
        for optimizer in trainer.optimizers:
            set_learning_rate(optimizer, pl_module.learning_rate)
