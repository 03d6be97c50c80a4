"""The LightningModule: a model, its objective, its optimizer, and what a checkpoint holds besides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.batches.batch import Batch
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.distributed.devices import Device
from folio.models import Model, build_model
from folio.models.blocks import Block
from folio.models.gpt2_format import GPT2FormatError
from folio.models.pretrained import load_gpt2
from folio.objectives.evaluation import Validation
from folio.objectives.losses import batch_loss
from folio.objectives.metrics import Metrics, token_sums
from folio.optim.optimizers import build_optimizer, mark_matrices, set_learning_rate
from folio.optim.schedules import learning_rate
from folio.runs import checkpoints
from folio.runs.checkpoints import CheckpointMetadata
from folio.training.context import RunContext
from folio.training.divergence import Diverged, GradientMonitor, all_finite

Loss = Callable[[Model, Batch], tuple[Tensor, Tensor]]
"""The loss that is made small, and the accuracy."""


class LanguageModel(L.LightningModule):
    """Trains a model on batches. Callbacks read `train_means`, `gradient_norm`, `learning_rate` and `val`."""

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
        self._weights = tuple(model.parameters())  # walking through the modules at each step takes longer than a norm
        mark_matrices(model)
        self.config = config
        self.distributed = distributed
        self.metadata = metadata
        self.device_info = device
        self.validation = validation
        self.loss = loss
        self.train_means = RunningMeans(self.distributed)
        self.gradients = GradientMonitor(config.training)
        self.gradient_norm: Tensor | None = None
        """Of the last update."""
        self.val: Metrics = {}
        self._val_step = -1
        self._val_sums: dict[int, Tensor] = {}
        self._rng_state: dict[str, Any] | None = None
        self._n_ranks_saved = 0

    @property
    def learning_rate(self) -> float:
        """The rate of the optimizer step that comes next."""
        return learning_rate(self.config, self.global_step)

    def on_fit_start(self) -> None:
        if self.config.trainer.activation_checkpointing:
            for module in self.model.modules():
                if isinstance(module, Block):
                    module.activation_checkpointing = True
        # Regions, not the whole: all blocks share one graph, so compiling takes as long as for one of them.
        if self.config.trainer.compile:
            for module in self.model.modules():
                if isinstance(module, Block):
                    module.compile()

    def on_train_start(self) -> None:
        # After everything that a start draws at random, so that a resumed run goes on with the same numbers.
        if self._rng_state is not None:
            checkpoints.set_rng_state(self._rng_state, one_gpu=self.distributed.world_size > 1)
        elif self.distributed.rank >= self._n_ranks_saved and self.distributed.rank > 0:
            # All began with one seed, for the same weights; but dropout must not be the same in each process.
            torch.manual_seed(seed_of_rank(self.config.seed, self.distributed.rank, self.global_step))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Lightning would keep the gradients of the step before until this one's forward pass is over.
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            for weight in self._weights:
                weight.grad = None

    def training_step(self, batch: Batch) -> Tensor:
        loss, accuracy = self.loss(self.model, batch)
        self.train_means.add(loss * batch.weight, accuracy * batch.weight)
        return loss * batch.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.config.optimizer, self.device_info.supports_fused_optimizer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        set_learning_rate(optimizer, self.learning_rate)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip here rather than by Lightning's option, to keep the norm and to allow fused optimizers."""
        largest = self.config.training.gradient_clip_norm or float("inf")
        norm = self._clip(largest)
        # With float16 infinite gradients are normal: the scaler finds its scale by them and skips those steps itself.
        if self.device_info.precision == "16-mixed" or self.gradients.should_step(
            self.global_step + 1, self.learning_rate, norm
        ):
            self.gradient_norm = norm
            self.train_means.commit()
        else:
            self.zero_grad()  # optimizers pass over a parameter that has no gradient
            self.train_means.rollback()

    def _clip(self, largest: float) -> Tensor:
        """The norm of all gradients before they were scaled down to `largest`: the same number in each process."""
        if self.config.trainer.strategy == "fsdp":  # of whose gradients each process has a share
            return self.trainer.strategy.model.clip_grad_norm_(largest)  # type: ignore[union-attr, operator]
        return torch.nn.utils.clip_grad_norm_(self._weights, largest)

    def on_validation_epoch_start(self) -> None:
        self._val_sums = {}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        sums = token_sums(self.model, batch)
        self._val_sums[dataloader_idx] = self._val_sums.get(dataloader_idx, 0.0) + sums

    def on_validation_epoch_end(self) -> None:
        self.val = self.validation.metrics(
            [self.distributed.all_reduce_sum(self._val_sums[loader]) for loader in sorted(self._val_sums)]
        )
        self._val_step = self.global_step
        for name, value in self.val.items():
            # For callbacks such as EarlyStopping; `folio.training.callbacks.metrics` writes the curves.
            self.log(f"val/{name}", value, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises: Diverged rather than save what no run could go on from."""
        self.gradients.check()
        if not self.distributed.all_true(all_finite(self.model)):
            raise Diverged(
                f"after step {self.global_step} there are weights that are not finite, with learning rate "
                f"{self.learning_rate:.3g} and gradient norm {self.gradient_norm:.3g}; lower optimizer.learning_rate"
            )
        checkpoint[checkpoints.FOLIO_KEY] = {
            **self.metadata.to_plain(),
            **self._of_ranks(),
            "gradients": self.gradients.state(),
            # Of these weights or none: a run that is stopped between validations has others by now.
            "val": self.val if self._val_step == self.global_step else {},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint[checkpoints.FOLIO_KEY]
        self.val = saved["val"]
        if self.val:
            self._val_step = checkpoint["global_step"]
        self._take_up(saved, checkpoint)
        if "gradients" in saved:  # since format 3
            self.gradients.load_state(saved["gradients"])

    def _of_ranks(self) -> dict[str, Any]:
        """What each process has of its own: its generators, and the sums of what it read since the last log line."""
        own = {
            "rng": checkpoints.rng_state(one_gpu=self.distributed.world_size > 1),
            "train_means": self.train_means.state(),
        }
        if self.distributed.world_size == 1:
            return own
        ranks = self.distributed.all_gather(own)
        return {**ranks[0], "train_means": mean_state([rank["train_means"] for rank in ranks]), "ranks": ranks}

    def _take_up(self, saved: dict[str, Any], checkpoint: dict[str, Any]) -> None:
        """Go on with what this process had; where there were fewer or more of them, with what follows from theirs."""
        ranks = saved.get("ranks") or [{"rng": saved["rng"], "train_means": saved["train_means"]}]
        self._n_ranks_saved, rank = len(ranks), self.distributed.rank
        self._rng_state = ranks[rank]["rng"] if rank < len(ranks) else None
        before, now = accumulation_of(saved["config"]), self.config.accumulate_grad_batches
        if len(ranks) == self.distributed.world_size and before == now:
            self.train_means.load_state(ranks[rank]["train_means"])
            return
        means = saved["train_means"]
        if means["sums"] is not None:  # of micro batches, of which a step has another number from here on
            means = {"sums": means["sums"] * (now / before), "count": means["count"] * now // before}
        self.train_means.load_state(means)
        shift_micro_batches(checkpoint["loops"], checkpoint["global_step"] * (now - before))


def seed_of_rank(seed: int, rank: int, step: int) -> int:
    """For the generators of a process that has none saved."""
    return int(np.random.SeedSequence((seed, rank, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def accumulation_of(config: dict[str, Any]) -> int:
    """Micro batches of a device in one optimizer step, by the plain config in a checkpoint."""
    training, trainer = config["training"], config["trainer"]
    own = training["batch_size"] // (trainer["devices"] * trainer.get("num_nodes", 1))
    return own // (training["micro_batch_size"] or own)


def shift_micro_batches(loops: dict[str, Any], difference: int) -> None:
    """Let Lightning's count of micro batches, by which it validates, be what it would be with today's accumulation."""
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        for name in counts:
            counts[name] += difference


def mean_state(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the `RunningMeans` of all processes: they have counted as many micro batches each."""
    sums = [state["sums"] for state in states]
    mean = None if sums[0] is None else torch.stack([part.cpu() for part in sums]).mean(dim=0)
    return {"sums": mean, "count": states[0]["count"]}


class RunningMeans:
    """Means of the loss and the accuracy that stay on the device: asking for them is what waits for it."""

    def __init__(self, distributed: DistributedContext = SINGLE_PROCESS) -> None:
        self._distributed = distributed
        self._sums: Tensor | None = None
        self._count = 0
        self._kept: tuple[Tensor | None, int] = None, 0

    def add(self, loss: Tensor, accuracy: Tensor) -> None:
        """Count one micro batch: two scalars."""
        values = torch.stack((loss.detach().float(), accuracy))
        # After a resume the sums are on the CPU.
        self._sums = values if self._sums is None else self._sums.to(values.device) + values
        self._count += 1

    def commit(self) -> None:
        """Count the micro batches so far for good: their step is taken."""
        self._kept = self._sums, self._count

    def rollback(self) -> None:
        """Leave out the micro batches since `commit`: their step is not taken."""
        self._sums, self._count = self._kept

    def take(self) -> tuple[float, float] | None:
        """Loss in nats and accuracy, both means since the last call; None where nothing was counted.

        All processes must call it at the same point."""
        if self._sums is None:
            return None
        loss, accuracy = (
            self._distributed.all_reduce_sum(self._sums) / (self._count * self._distributed.world_size)
        ).tolist()
        self._sums, self._count = self._kept = None, 0
        return loss, accuracy

    def state(self) -> dict[str, Any]:
        return {"sums": self._sums, "count": self._count}

    def load_state(self, state: dict[str, Any]) -> None:
        self._sums, self._count = self._kept = state["sums"], state["count"]


def initial_model(context: RunContext) -> Model:
    """Return the model a run starts with: new weights, or those of init_from. Raises: ConfigError.

    A resumed run loads its weights from the checkpoint.
    """
    config, shape = context.config, context.model_config
    if config.init_from is None or context.resumed:
        return build_model(shape)
    try:
        model = load_gpt2(
            Path(config.init_from),
            context_length=shape.context_length,
            dropout=shape.dropout,
            attention_dropout=shape.attention_dropout,
        )
    except GPT2FormatError as error:
        raise ConfigError(f"init_from={config.init_from}: {error}") from None
    assert model.config == shape
    return model
