"""TODO folio.training.trainer_state."""

import lightning as L
from lightning.pytorch.strategies import FSDPStrategy


def ends_step(trainer: L.Trainer, batch_index: int) -> bool:
    """Whether this micro batch completed an optimizer step."""
    return (batch_index + 1) % trainer.accumulate_grad_batches == 0


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether no process holds the whole model."""
    return isinstance(trainer.strategy, FSDPStrategy)
