"""The LightningModule: a model, its objective and its optimizer."""

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.distributed.devices import Device
from folio.distributed.sharding import Shards, free_gathered, is_sharded, shard_model, whole
from folio.models import Model
from folio.models.blocks import Block
from folio.objectives.evaluation import Validation
from folio.objectives.losses import batch_loss
from folio.objectives.metrics import Metrics, token_sums
from folio.optim.optimizers import build_optimizer
from folio.optim.schedules import learning_rate
from folio.runs.checkpoints import FOLIO_KEY, CheckpointMetadata
from folio.training.divergence import Diverged, GradientMonitor, all_finite
from folio.training.rank_state import RankState, accumulation_of, adapt_micro_batch_counts
from folio.training.running_means import RunningMeans

Loss = Callable[[Model, Batch], tuple[Tensor, Tensor]]
"""Returns the loss to minimize, and the accuracy."""


class LanguageModel(L.LightningModule):
    """Trains and validates a model on batches.

    Callbacks read `train_means`, `gradient_norm`, `gradient_monitor`, `learning_rate` and `val_metrics`.
    """

    def __init__(
        self,
        *,
        model: Model,
        config: RunConfig,
        metadata: CheckpointMetadata,
        device: Device,
        validation: Validation,
        loss: Loss = batch_loss,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        super().__init__()
        self.model = model
        self._weights = tuple(model.parameters())  # collecting them takes longer than computing a norm
        self.config = config
        self.metadata = metadata
        self.validation = validation
        self.loss = loss
        self.distributed = distributed
        self.run_device = device
        self.train_means = RunningMeans(distributed)
        self.rank_state = RankState(config, distributed, self.train_means)
        self.gradient_monitor = GradientMonitor(config.training)
        self.gradient_norm: Tensor | None = None
        """Norm of the gradients of the last update, before clipping."""
        self.val_metrics: Metrics = {}
        self._val_step = -1
        self._val_sums: dict[int, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "LanguageModel":
        """Copy the model and share all else: Lightning's weight averaging copies the module for its weights alone."""
        model = Shards(self.model) if is_sharded(self.model) else copy.deepcopy(self.model, memo)
        other = self.__class__.__new__(self.__class__)
        other.__dict__ = self.__dict__ | {"_modules": {**self._modules, "model": model}}
        return other

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next optimizer step."""
        return learning_rate(self.config, self.global_step)

    def configure_model(self) -> None:
        """Shard the model, if the strategy does, before the optimizer is made. Weight averaging calls it earlier."""
        if self.config.trainer.strategy == "fsdp" and not is_sharded(self.model):
            assert self.device_mesh is not None
            shard_model(self.model, self.device_mesh["data_parallel"], self.run_device.precision)
            self.to(self.trainer.strategy.root_device)
            self._weights = tuple(self.model.parameters())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.config.optimizer, self.run_device.supports_fused_optimizer)

    def on_fit_start(self) -> None:
        trainer = self.config.trainer
        for module in self.model.modules():
            if isinstance(module, Block):
                module.activation_checkpointing = trainer.activation_checkpointing
                # Blocks instead of the whole model: they share one graph, so compiling takes as long as for one block.
                if trainer.compile:
                    module.compile()

    def on_train_start(self) -> None:
        self.rank_state.restore_rng(self.global_step)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Lightning would keep the gradients of the previous step until the forward pass of this one is over.
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            for weight in self._weights:
                weight.grad = None

    def training_step(self, batch: Batch) -> Tensor:
        loss, accuracy = self.loss(self.model, batch)
        self.train_means.update(loss * batch.weight, accuracy * batch.weight)
        return loss * batch.weight

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradients here instead of with Lightning's option, to keep the norm and allow fused optimizers."""
        norm = self._clip_gradients(self.config.training.gradient_clip_norm or float("inf"))
        # With float16, infinite gradients are normal: the scaler finds its scale by them, and skips those steps itself.
        scales_loss = self.run_device.precision == "16-mixed"
        if scales_loss or self.gradient_monitor.should_step(self.global_step + 1, self.learning_rate, norm):
            self.gradient_norm = norm
            self.train_means.commit()
        else:
            self.zero_grad()  # optimizers skip parameters without gradients
            self.train_means.rollback()

    def _clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients down to `max_norm`. Returns: their norm before, the same in each process."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        torch.nn.utils.clip_grads_with_norm_(self._weights, max_norm, norm)
        return norm

    def on_validation_epoch_start(self) -> None:
        self._val_sums = {}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        sums = token_sums(self.model, batch)
        free_gathered(self.model)
        self._val_sums[dataloader_idx] = self._val_sums.get(dataloader_idx, 0.0) + sums

    def on_validation_epoch_end(self) -> None:
        self.val_metrics = self.validation.metrics(
            [self.distributed.all_reduce_sum(self._val_sums[loader]) for loader in sorted(self._val_sums)]
        )
        self._val_step = self.global_step
        for name, value in self.val_metrics.items():
            # For callbacks such as EarlyStopping; `folio.training.callbacks.metrics` writes the curves.
            self.log(f"val/{name}", value, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add Folio's entries. Raises: Diverged instead of saving weights from which no run could continue."""
        self.gradient_monitor.check()
        if not self.distributed.all_true(all_finite(self.model)):
            raise Diverged(
                f"after step {self.global_step} there are weights that are not finite, with learning rate "
                f"{self.learning_rate:.3g} and gradient norm {self.gradient_norm:.3g}; lower optimizer.learning_rate"
            )
        checkpoint[FOLIO_KEY] = {
            **self.metadata.to_dict(),
            **self.rank_state.state_dict(),
            "gradients": self.gradient_monitor.state_dict(),
            # Only of these weights: they have changed if the run was stopped between two validations.
            "val": self.val_metrics if self._val_step == self.global_step else {},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint[FOLIO_KEY]
        self.val_metrics = saved["val"]
        if self.val_metrics:
            self._val_step = checkpoint["global_step"]
        self.rank_state.load_state_dict(saved)
        adapt_micro_batch_counts(checkpoint, accumulation_of(saved["config"]), self.config.accumulate_grad_batches)
        if "gradients" in saved:  # since format 3
            self.gradient_monitor.load_state_dict(saved["gradients"])
