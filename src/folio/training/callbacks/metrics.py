"""Log the metrics of training and validation, and stop a run whose loss is NaN or infinite."""

import math
from typing import Any

import lightning as L
import torch

from folio.config.training import TrainingConfig
from folio.data.token_file import TokenFileInfo
from folio.objectives.metrics import Metrics, compute_metrics, format_line
from folio.runtime.console import log
from folio.training.callbacks.base import StepCallback, check_state
from folio.training.callbacks.throughput import Throughput
from folio.training.divergence import Diverged, SpikeDetector
from folio.training.module import LanguageModel


class MetricLogger(StepCallback):
    """Logs training metrics every log_every_steps, and validation metrics after each validation."""

    state_key = "metrics"

    def __init__(self, throughput: Throughput, training: TrainingConfig, train_info: TokenFileInfo | None) -> None:
        self.throughput = throughput
        self.training = training
        self.train_info = train_info
        self.train_loss_nats: float | None = None
        """Mean training loss between the last two log lines."""
        self.val: Metrics = {}
        """Metrics of the last validation."""
        self.val_step: int | None = None
        """Step of the last validation."""
        self._spikes = SpikeDetector()
        self._learning_rate = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModel)
        self._learning_rate = pl_module.learning_rate  # of this step: after it, the module has that of the next

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        step, monitor = trainer.global_step, pl_module.gradient_monitor
        if not self.training.is_log_step(step):
            return
        monitor.check()
        self.throughput.sync_counts()
        metrics = {"train/skipped_steps": float(monitor.n_skipped)} if monitor.skips else {}
        means = pl_module.train_means.compute_and_reset()
        if means is not None:  # else every step since the last log line was skipped
            metrics |= self._training_metrics(*means, step, pl_module)
        # For callbacks that monitor them. Logging them by Lightning would take longer than a small model's step.
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        pl_module.gradient_monitor.check()
        val, step = pl_module.val_metrics, trainer.global_step
        self._check_finite("validation", val["loss_nats"], step, pl_module)
        self.val, self.val_step = val, step
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in val.items()}, step)
        log.info(f"step {step}: {format_line(val)}")

    def _training_metrics(
        self, loss_nats: float, accuracy: float, step: int, module: LanguageModel
    ) -> dict[str, float]:
        self.train_loss_nats = loss_nats
        self._check_finite("training", loss_nats, step, module)
        median = self._spikes.update(loss_nats)
        if median is not None:
            log.warning(
                f"warning: the training loss jumped to {loss_nats:.3f} nats at step {step}; the median of the "
                f"{SpikeDetector.WINDOW} values before is {median:.3f}"
            )
        assert module.gradient_norm is not None
        metrics, tokens_per_s = compute_metrics(loss_nats, accuracy, self.train_info), self.throughput.tokens_per_s()
        return {
            **{f"train/{name}": value for name, value in metrics.items()},
            "train/learning_rate": self._learning_rate,
            "train/gradient_norm": module.gradient_norm.item(),
            "train/tokens_per_s": tokens_per_s,
            "train/mfu": self.throughput.mfu(tokens_per_s),
        }

    def _check_finite(self, split: str, loss_nats: float, step: int, module: LanguageModel) -> None:
        """Raises: Diverged, which keeps the last checkpoints."""
        if not math.isfinite(loss_nats):
            raise Diverged(
                f"the {split} loss is {loss_nats} at step {step}, with learning rate {self._learning_rate:.3g} and "
                f"gradient norm {module.gradient_norm:.3g}: the run has diverged; lower "
                f"{module.config.schedule.scaled_by}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "train_loss_nats": self.train_loss_nats,
            "val": self.val,
            "val_step": self.val_step,
            "recent_losses": list(self._spikes.losses_nats),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = {"val": {}, "val_step": None, "recent_losses": []} | state_dict  # these since format 3
        check_state(state_dict, train_loss_nats=float | None, val=dict, val_step=int | None, recent_losses=list)
        check_state(state_dict["val"], **dict.fromkeys(state_dict["val"], int | float))
        if not all(isinstance(loss, float) for loss in state_dict["recent_losses"]):
            raise ValueError("its recent_losses are no numbers")
        self.train_loss_nats = state_dict["train_loss_nats"]
        self.val, self.val_step = state_dict["val"], state_dict["val_step"]
        self._spikes = SpikeDetector(state_dict["recent_losses"])
