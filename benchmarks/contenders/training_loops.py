"""Training loops without a framework: the steps, and nothing else."""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.protocol import Channel, WorkerSpec
from benchmarks.contenders.step_timer import StepTimer, open_data
from folio.config.run import RunConfig
from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.order import random_indices
from folio.data.batches.windows import ValidationWindows, gather_windows
from folio.data.prepared import PreparedData
from folio.distributed.devices import resolve_device
from folio.models import Model, TransformerConfig, build_model
from folio.models.blocks import Block
from folio.models.transformer_config import BOUNDED_POSITIONS
from folio.objectives.losses import batch_loss
from folio.optim.optimizers import build_optimizer, set_learning_rate
from folio.optim.schedules import learning_rate
from folio.runtime.memory import return_freed_blocks


class TrainingLoop(ABC):
    """A model with its optimizer, and one step as users of that model write it.

    All loops draw the same windows and follow the same schedule: with equal weights they have equal losses.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, spec: WorkerSpec, config: RunConfig, data: PreparedData) -> None:
        self.config = config
        self.data = data
        self.device = resolve_device(config.trainer)
        self.torch_device = self.device.torch_device
        self.model_config = model_config_of(config)
        self.weights = spec.weights

    @abstractmethod
    def step(self, number: int) -> Tensor:
        """Do one optimizer step, counted from 0. Returns the loss, a scalar on the device."""

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""

    def starts(self, number: int) -> np.ndarray:
        """Return where the windows of a step begin, (B,)."""
        n_starts = len(self.data.train.tokens) - self.model_config.context_length
        return random_indices(n_starts, self.config.seed, number, self.config.training.batch_size)

    def set_learning_rate(self, number: int) -> None:
        set_learning_rate(self.optimizer, learning_rate(self.config, number))

    def update(self, loss: Tensor) -> None:
        """Backpropagate the loss, clip the gradients, update the weights, and clear the gradients."""
        loss.backward()
        self.clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def clip_gradients(self) -> None:
        max_norm = self.config.training.gradient_clip_norm
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss over the whole validation split, each target once."""
        self.model.eval()
        windows = ValidationWindows(self.data.val.tokens, self.model_config.context_length)
        batch_size, total, n_targets = self.config.training.batch_size, 0.0, 0
        for first in range(0, len(windows), batch_size):
            batch = windows.batch(range(first, min(first + batch_size, len(windows)))).to(self.torch_device)
            logits = self.logits(batch.tokens).flatten(end_dim=1)  # (B*T, V)
            targets = batch.targets.flatten()
            total += F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="sum").item()
            n_targets += int((targets != IGNORE_INDEX).sum())
        self.model.train()
        return total / n_targets


class BareLoop(TrainingLoop):
    """Folio's own model, loss, optimizer and allocator: what Folio takes longer than this is the framework."""

    def __init__(self, spec: WorkerSpec, config: RunConfig, data: PreparedData) -> None:
        super().__init__(spec, config, data)
        if self.torch_device.type == "cpu":
            return_freed_blocks()
        torch.manual_seed(config.seed)
        self.folio_model: Model = build_model(self.model_config)
        self.model = self.folio_model
        if self.weights is not None:
            self.model.load_state_dict(torch.load(self.weights, weights_only=True, mmap=True))
        self.model.to(self.torch_device)
        if config.trainer.compile:
            for module in self.model.modules():
                if isinstance(module, Block):
                    module.compile()
        self.optimizer = build_optimizer(self.folio_model, config.optimizer, self.device.supports_fused_optimizer)

    def batch(self, number: int) -> Batch:
        """Return the batch of a step."""
        windows = gather_windows(self.data.train.tokens, self.starts(number), self.model_config.context_length)
        window = torch.from_numpy(windows).to(self.torch_device)  # (B, T + 1)
        return Batch(window[:, :-1].contiguous(), window[:, 1:].contiguous(), n_tokens=0)

    def step(self, number: int) -> Tensor:
        batch = self.batch(number)
        self.set_learning_rate(number)
        with self.device.autocast():
            loss, _ = batch_loss(self.folio_model, batch)
        self.update(loss)
        return loss.detach()

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


def model_config_of(config: RunConfig) -> TransformerConfig:
    assert config.model.vocab_size is not None
    return config.transformer_config(config.model.vocab_size)


def n_position_parameters(model_config: TransformerConfig) -> int:
    """Return the size of the table of learned positions, which no matrix product uses."""
    width = model_config.position_width or model_config.d_model
    return model_config.context_length * width if model_config.positional_encoding in BOUNDED_POSITIONS else 0


def serve_loop(build: type[TrainingLoop], spec: WorkerSpec, channel: Channel, rss_before: int) -> None:
    """Build the loop and do the steps that are asked for."""
    config = RunConfig.model_validate(spec.config)
    loop = build(spec, config, open_data(spec, config))
    loop.model.train()
    timer = StepTimer(channel, loop.torch_device, loop.validate)
    timer.report_ready(loop.model, n_position_parameters(loop.model_config), rss_before)
    number = 0
    while (n_steps := timer.wait_for_steps()) is not None:
        losses = [loop.step(number + index) for index in range(n_steps)]
        number += n_steps
        timer.finish(losses)
