"""Save checkpoints."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from folio.config.training import TrainingConfig
from folio.training.callbacks.base import StepCallback, check_state
from folio.training.loggers.base import run_loggers
from folio.training.module import LanguageModel


class CheckpointCallback(StepCallback):
    """Keeps `last.ckpt`, from which a run resumes, and `best.ckpt`, with the lowest validation loss.

    It also keeps `step=<n>.ckpt` and `epoch=<n>.ckpt` of every n-th step and epoch, if the config says so.

    Lightning's ModelCheckpoint saves before the validation of the same step, and a run resumed from there would never
    run that validation. Here a step is saved after everything that belongs to it. A run that a callback ends has one
    more validation, and is saved after it.
    """

    state_key = "checkpoints"

    def __init__(
        self,
        folder: Path,
        training: TrainingConfig,
        keep_every_steps: int | None = None,
        keep_every_epochs: int | None = None,
        epochs_after: Callable[[int], int] = lambda step: 0,
        restore_run_folder: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.training = training
        self.keep_every_steps = keep_every_steps
        self.keep_every_epochs = keep_every_epochs
        self.epochs_after = epochs_after
        """Number of whole epochs that the run has read after a step."""
        self.restore_run_folder = restore_run_folder
        self.best_loss_nats = math.inf
        self.best_step: int | None = None
        self.saved_step: int | None = None
        """Step of the last.ckpt that this process saved."""

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (self.training.is_validation_step(trainer.global_step) or trainer.should_stop):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        loss_nats = pl_module.val_metrics["loss_nats"]
        if loss_nats < self.best_loss_nats:
            self.best_loss_nats, self.best_step = loss_nats, trainer.global_step
            self._write(trainer, "best")
        self._save_if_due(trainer)

    def _save_if_due(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if self.keep_every_steps is not None and step % self.keep_every_steps == 0:
            self._write(trainer, f"step={step}")
        if (every := self.keep_every_epochs) is not None:
            before, now = (self.epochs_after(number) // every for number in (step - 1, step))
            if now > before:  # by more than 1 if the text is shorter than a batch
                self._write(trainer, f"epoch={now * every}")
        if self.training.is_checkpoint_step(step) or trainer.should_stop:
            self.save_last(trainer)

    def save_last(self, trainer: L.Trainer) -> None:
        """Write last.ckpt, unless it is of this step already."""
        if self.saved_step != trainer.global_step:
            self._write(trainer, "last")
            self.saved_step = trainer.global_step

    def _write(self, trainer: L.Trainer, name: str) -> None:
        if self.restore_run_folder and trainer.is_global_zero and not self.folder.parent.exists():
            self.restore_run_folder()
        # The curves up to this step come first, because a run resumed from here does not log them again.
        for logger in run_loggers(trainer):
            logger.flush()
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss_nats": self.best_loss_nats, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_state(state_dict, best_loss_nats=float, best_step=int | None)
        self.best_loss_nats = state_dict["best_loss_nats"]
        self.best_step = state_dict["best_step"]
