"""Training loops without a framework: what a person writes who wants nothing but the steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.protocol import Line, Spec
from benchmarks.contenders.step_timer import Turnstile, open_data
from folio.config.run import RunConfig
from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.windows import ValidationWindows, gather_windows, random_starts
from folio.data.prepared import PreparedData
from folio.distributed.devices import resolve_device
from folio.models import Model, TransformerConfig, build_model
from folio.models.blocks import Block
from folio.objectives.losses import batch_loss
from folio.optim.optimizers import build_optimizer, set_learning_rate
from folio.optim.schedules import learning_rate
from folio.runtime.memory import return_freed_blocks


class Loop(ABC):
    """A model with its optimizer, and the step that its users write.

    All loops draw the same windows and follow the same schedule: with the same weights they have the same losses.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, spec: Spec, config: RunConfig, data: PreparedData) -> None:
        self.config = config
        self.data = data
        self.device = resolve_device(config.trainer)
        self.torch_device = self.device.torch_device
        self.shape = shape_of(config)
        self.weights = spec.weights

    @abstractmethod
    def step(self, number: int) -> Tensor:
        """Do the optimizer step of this number, counted from 0; its loss, a scalar on the device."""

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""

    def starts(self, number: int) -> list[int]:
        """Where the windows of a step begin."""
        n_starts = len(self.data.train.tokens) - self.shape.context_length
        return random_starts(n_starts, self.config.seed, number, self.config.training.batch_size).tolist()

    def set_learning_rate(self, number: int) -> None:
        set_learning_rate(self.optimizer, learning_rate(self.config, number))

    def update(self, loss: Tensor) -> None:
        """From the loss to the next weights; no gradient is left."""
        loss.backward()
        largest = self.config.training.gradient_clip_norm
        if largest is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss over the whole validation split, every target once."""
        self.model.eval()
        windows = ValidationWindows(self.data.val.tokens, self.shape.context_length)
        batch_size, total, n_targets = self.config.training.batch_size, 0.0, 0
        for first in range(0, len(windows), batch_size):
            batch = windows.__getitems__(range(first, min(first + batch_size, len(windows)))).to(self.torch_device)
            logits = self.logits(batch.tokens).flatten(end_dim=1)  # (B*T, V)
            targets = batch.targets.flatten()
            total += F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="sum").item()
            n_targets += int((targets != IGNORE_INDEX).sum())
        self.model.train()
        return total / n_targets


BuildLoop = Callable[[Spec, RunConfig, PreparedData], Loop]


class BareLoop(Loop):
    """Folio's own model, loss, optimizer and allocator, so that what is left between the two is the framework."""

    def __init__(self, spec: Spec, config: RunConfig, data: PreparedData) -> None:
        super().__init__(spec, config, data)
        if self.torch_device.type == "cpu":
            return_freed_blocks()
        torch.manual_seed(config.seed)
        self.ours: Model = build_model(self.shape)
        self.model = self.ours
        if self.weights is not None:
            self.model.load_state_dict(torch.load(self.weights, weights_only=True, mmap=True))
        self.model.to(self.torch_device)
        if config.trainer.compile:
            for module in self.model.modules():
                if isinstance(module, Block):
                    module.compile()
        self.optimizer = build_optimizer(self.ours, config.optimizer, self.device.supports_fused_optimizer)

    def step(self, number: int) -> Tensor:
        tokens = self.data.train.tokens
        starts = self.starts(number)
        windows = torch.from_numpy(gather_windows(tokens, torch.tensor(starts).numpy(), self.shape.context_length))
        windows = windows.to(self.torch_device)
        batch = Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), n_tokens=0)
        self.set_learning_rate(number)
        with self.device.autocast():
            loss, _ = batch_loss(self.ours, batch)
        self.update(loss)
        return loss.detach()

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)


def shape_of(config: RunConfig) -> TransformerConfig:
    assert config.model.vocab_size is not None
    return config.transformer_config(config.model.vocab_size)


def n_position_parameters(shape: TransformerConfig) -> int:
    """Of the table of learned positions, which is in no matrix product."""
    return shape.context_length * shape.d_model if shape.positional_encoding == "learned" else 0


def serve_loop(build: BuildLoop, spec: Spec, line: Line, rss_before: int) -> None:
    """Build the loop and let it step as it is told."""
    config = RunConfig.model_validate(spec.config)
    loop = build(spec, config, open_data(spec, config))
    loop.model.train()
    turnstile = Turnstile(line, loop.torch_device, loop.validate)
    turnstile.open(loop.model, n_position_parameters(loop.shape), rss_before)
    number = 0
    while (n_steps := turnstile.wait()) is not None:
        losses = [loop.step(number + index) for index in range(n_steps)]
        number += n_steps
        turnstile.done(losses)


def write_weights(model: nn.Module, path: str) -> None:
    """For the other sides, which read them with torch.load."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
