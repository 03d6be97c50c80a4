"""What happens around the steps: curves, progress, samples and checkpoints.

Their order in the trainer matters where one needs what another has done; `folio.training.run` gives it.
"""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.config.training import TrainingConfig
from folio.data.token_file import TokenFileInfo
from folio.objectives.metrics import Metrics, compute_metrics, format_line
from folio.runtime.console import log
from folio.training.callbacks.throughput import Throughput
from folio.training.divergence import Diverged, SpikeDetector
from folio.training.module import LanguageModel
from folio.training.trainer_state import ends_step


class MetricLogger(Callback):
    """Writes the scalars of training every log_every_steps, and those of validation when there are some."""

    state_key = "metrics"
    """Name of its entry in a checkpoint."""

    def __init__(self, pace: Throughput, training: TrainingConfig, train_info: TokenFileInfo | None) -> None:
        self.pace = pace
        self.training = training
        self.train_info = train_info
        self.train_loss_nats: float | None = None
        """Mean since the scalars before."""
        self.val: Metrics = {}
        self.val_step: int | None = None
        """Of the last validation, whose figures are `val`."""
        self._spikes = SpikeDetector()
        self._rate = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModel)
        self._rate = pl_module.learning_rate

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        is_last = step == self.training.max_steps
        if not ends_step(trainer, batch_idx) or (step % self.training.log_every_steps and not is_last):
            return
        assert isinstance(pl_module, LanguageModel)
        pl_module.gradients.check()
        self.pace.sync_counts()
        scalars = {"train/skipped_steps": float(pl_module.gradients.n_skipped)} if pl_module.gradients.skips else {}
        means = pl_module.train_means.take()
        if means is not None:  # else every step since was skipped
            scalars |= self._of_training(*means, trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)

    def _of_training(
        self, loss: float, accuracy: float, trainer: L.Trainer, pl_module: LanguageModel
    ) -> dict[str, float]:
        self.train_loss_nats = loss
        self._check_finite("training", loss, trainer, pl_module)
        usual = self._spikes.spike(loss)
        if usual is not None:
            log.warning(
                f"warning: the training loss jumped to {loss:.3f} nats at step {trainer.global_step}; the median of "
                f"the {SpikeDetector.N_BEFORE} values before is {usual:.3f}"
            )
        assert pl_module.gradient_norm is not None
        metrics = compute_metrics(loss, accuracy, self.train_info)
        return {
            **{f"train/{name}": value for name, value in metrics.items()},
            "train/learning_rate": self._rate,
            "train/gradient_norm": pl_module.gradient_norm.item(),
            "train/tokens_per_s": self.pace.tokens_per_s(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "train_loss_nats": self.train_loss_nats,
            "val": self.val,
            "val_step": self.val_step,
            "recent_losses": list(self._spikes.losses),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_loss_nats = state_dict["train_loss_nats"]
        self.val, self.val_step = state_dict.get("val", {}), state_dict.get("val_step")
        self._spikes = SpikeDetector(state_dict.get("recent_losses", ()))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        pl_module.gradients.check()
        val = pl_module.val
        self._check_finite("validation", val["loss_nats"], trainer, pl_module)
        self.val, self.val_step = val, trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in val.items()}, trainer.global_step)
        log.info(f"step {trainer.global_step}: {format_line(val)}")

    def _check_finite(self, which: str, loss: float, trainer: L.Trainer, pl_module: LanguageModel) -> None:
        """Raises: Diverged; the checkpoints of before stay."""
        if not math.isfinite(loss):
            key = pl_module.config.schedule.scaled_by
            raise Diverged(
                f"the {which} loss is {loss} at step {trainer.global_step}, with learning rate {self._rate:.3g} and "
                f"gradient norm {pl_module.gradient_norm:.3g}: the run has diverged; lower {key}"
            )
