"""Log the norm of the gradients of each part of the model."""

from collections.abc import Iterator

import lightning as L
import torch
from torch import Tensor, nn

from folio.distributed.sharding import whole
from folio.training.callbacks.base import StepCallback
from folio.training.module import LanguageModel


class GradientNorms(StepCallback):
    """Logs gradient_norm/blocks.0 and so on, at each `every_steps`-th step, before clipping.

    A norm that falls or rises from block to block shows vanishing or exploding gradients (Pascanu et al. 2013).
    """

    def __init__(self, every_steps: int = 10) -> None:
        if every_steps < 1:
            raise ValueError("every_steps must be 1 or more")
        self.every_steps = every_steps
        self._norms: dict[str, Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, LanguageModel)
        if (trainer.global_step + 1) % self.every_steps == 0:
            self._norms = {f"gradient_norm/{name}": norm for name, norm in part_norms(pl_module.model)}

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._norms:
            metrics = {name: norm.item() for name, norm in self._norms.items()}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, trainer.global_step)
            self._norms = {}


def part_norms(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the norm of the gradients of each block, and of each other part that has weights."""
    for name, part in model.named_children():
        if isinstance(part, nn.ModuleList):
            parts = [(f"{name}.{index}", block) for index, block in enumerate(part)]
        else:
            parts = [(name, part)]
        for part_name, inner in parts:
            gradients = [weight.grad for weight in inner.parameters() if weight.grad is not None]
            if gradients:
                yield part_name, whole(torch.nn.utils.get_total_norm(gradients))
