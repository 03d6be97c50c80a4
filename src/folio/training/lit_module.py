"""The LightningModule: a model, its objective, its optimizer, and what a checkpoint holds besides."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from folio.config import RunConfig
from folio.data.loaders import Batch
from folio.models import GPT
from folio.training import checkpoint as checkpoints
from folio.training.evaluation import Metrics, metrics_from, token_sums
from folio.training.objectives import causal_lm_loss
from folio.training.optimizers import build_optimizer
from folio.training.schedules import learning_rate


class LanguageModel(L.LightningModule):
    """Trains a GPT on (tokens, targets). Callbacks read `train_means`, `gradient_norm`, `learning_rate` and `val`."""

    def __init__(
        self,
        *,
        model: GPT,
        config: RunConfig,
        contents: checkpoints.Contents,
        val_tokens_per_byte: float,
        fused_optimizer: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.contents = contents
        self.val_tokens_per_byte = val_tokens_per_byte
        self.fused_optimizer = fused_optimizer
        self.train_means = RunningMeans()
        self.gradient_norm: Tensor | None = None
        self.val: Metrics = {}
        self._val_step = -1
        self._val_sums = torch.zeros(3, dtype=torch.float64)
        self._rng_state: dict[str, Any] | None = None

    @property
    def learning_rate(self) -> float:
        """The rate of the optimizer step that comes next."""
        peak = self.config.optimizer.learning_rate
        return learning_rate(self.global_step, self.config.schedule, peak, self.config.training.max_steps)

    def on_fit_start(self) -> None:
        # Regions, not the whole: all blocks share one graph, so compiling takes as long as for one of them.
        if self.config.trainer.compile:
            for block in self.model.blocks:
                block.compile()

    def on_train_start(self) -> None:
        # After everything that a start draws at random, so that a resumed run goes on with the same numbers.
        if self._rng_state is not None:
            checkpoints.set_rng_state(self._rng_state)

    def training_step(self, batch: Batch) -> Tensor:
        loss, accuracy = causal_lm_loss(self.model, *batch)
        self.train_means.add(loss, accuracy)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.config.optimizer, self.fused_optimizer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip here rather than by Lightning's option, to keep the norm and to allow fused optimizers."""
        largest = self.config.training.gradient_clip_norm or float("inf")
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)

    def on_validation_epoch_start(self) -> None:
        self._val_sums.zero_()

    def validation_step(self, batch: Batch) -> None:
        self._val_sums += token_sums(self.model, *batch)

    def on_validation_epoch_end(self) -> None:
        self.val = metrics_from(self._val_sums, self.val_tokens_per_byte)
        self._val_step = self.global_step
        for name, value in self.val.items():
            # For callbacks such as EarlyStopping; `folio.training.callbacks` writes the curves.
            self.log(f"val/{name}", value, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.FOLIO_KEY] = {
            **self.contents.to_plain(),
            "rng": checkpoints.rng_state(),
            "train_means": self.train_means.state(),
            # Of these weights or none: a run that is stopped between validations has others by now.
            "val": self.val if self._val_step == self.global_step else {},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint[checkpoints.FOLIO_KEY]
        self._rng_state, self.val = saved["rng"], saved["val"]
        if self.val:
            self._val_step = checkpoint["global_step"]
        self.train_means.load_state(saved["train_means"])


class RunningMeans:
    """Means of the loss and the accuracy that stay on the device: asking for them is what waits for it."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, loss: Tensor, accuracy: Tensor) -> None:
        """Count one micro batch: two scalars."""
        values = torch.stack((loss.detach().float(), accuracy))
        # After a resume the sums are on the CPU.
        self._sums = values if self._sums is None else self._sums.to(values.device) + values
        self._count += 1

    def take(self) -> tuple[float, float]:
        """Loss in nats and accuracy, both means since the last call."""
        assert self._sums is not None
        loss, accuracy = (self._sums / self._count).tolist()
        self._sums, self._count = None, 0
        return loss, accuracy

    def state(self) -> dict[str, Any]:
        return {"sums": self._sums, "count": self._count}

    def load_state(self, state: dict[str, Any]) -> None:
        self._sums, self._count = state["sums"], state["count"]
