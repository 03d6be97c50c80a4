"""TODO folio.training.callbacks.checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from folio.config.training import TrainingConfig
from folio.training.module import LanguageModel
from folio.training.trainer_state import ends_step


class CheckpointCallback(Callback):
    """Keeps `last.ckpt`, where the run can go on, and `best.ckpt`, with the lowest validation loss.

    With keep_every_steps it keeps `step=<n>.ckpt` of every n-th step as well.
    Lightning's ModelCheckpoint would save before the validation of the same step; a run that goes on from
    there would leave that validation out. Here a step is saved once everything that belongs to it is done.
    """

    state_key = "checkpoints"
    """Name of its entry in a checkpoint."""

    def __init__(
        self,
        folder: Path,
        training: TrainingConfig,
        keep_every_steps: int | None = None,
        restore_run_folder: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.restore_run_folder = restore_run_folder
        self.training = training
        self.keep_every_steps = keep_every_steps
        self.best_loss_nats = float("inf")
        self.best_step: int | None = None
        self.saved_step: int | None = None
        """Of last.ckpt, where this part of the run wrote it."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if ends_step(trainer, batch_idx) and not self.validates(step):
            self._save_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        step, loss = trainer.global_step, pl_module.val["loss_nats"]
        if loss < self.best_loss_nats:
            self.best_loss_nats, self.best_step = loss, step
            self._write(trainer, "best")
        self._save_due(trainer)

    def _save_due(self, trainer: L.Trainer) -> None:
        """What this step calls for, once its validation, where it has one, is done."""
        step = trainer.global_step
        if self.keep_every_steps is not None and step % self.keep_every_steps == 0:
            self._write(trainer, f"step={step}")
        if self._is_due(step):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write last.ckpt, where it is not of this step yet."""
        if self.saved_step != trainer.global_step:
            self._write(trainer, "last")
            self.saved_step = trainer.global_step

    def _write(self, trainer: L.Trainer, name: str) -> None:
        if self.restore_run_folder and trainer.is_global_zero and not self.folder.parent.exists():
            self.restore_run_folder()
        # First the curves that lead up to it: a run that goes on from here does not draw them again.
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def _is_due(self, step: int) -> bool:
        return step % self.training.checkpoint_every_steps == 0 or step == self.training.max_steps

    def validates(self, step: int) -> bool:
        return step % self.training.validate_every_steps == 0 or step == self.training.max_steps

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss_nats": self.best_loss_nats, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss_nats = state_dict["best_loss_nats"]
        self.best_step = state_dict["best_step"]
