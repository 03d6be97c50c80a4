"""A hook for the end of an optimizer step, which Lightning does not have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, WeightAveraging

from folio.distributed.sharding import gather_model, is_sharded
from folio.models import Model
from folio.runtime.untrusted import shown
from folio.training.module import LanguageModel


class StepCallback(Callback):
    """A Lightning callback with one more hook: `on_step_end`, after each optimizer step.

    Lightning's `on_train_batch_end` runs after each micro-batch, of which a step has several with accumulation.
    """

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run after an optimizer step; `trainer.global_step` counts it already."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if ends_step(trainer, batch_idx):
            self.on_step_end(trainer, pl_module)


def check_state(state: dict[str, Any], **kinds: Any) -> None:
    """Check the values in a callback's part of a checkpoint, by name and type: their next use may be hours away.

    Raises: ValueError, which names the value.
    """
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"its {name} is {shown(state.get(name))}")


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether this micro-batch completes an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


@contextmanager
def validated_weights(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[None]:
    """Give the model the weights of the validation that has just ended: an average, if a callback keeps one."""
    averaging = [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None
    ]
    for callback in averaging:
        callback._swap_models(pl_module)
    try:
        yield
    finally:
        for callback in reversed(averaging):
            callback._swap_models(pl_module)


def whole_model(trainer: L.Trainer, pl_module: LanguageModel) -> Model | None:
    """Return the whole model in the first process, and None in the others. All processes must call it."""
    if is_sharded(pl_module.model):
        return gather_model(pl_module.model, is_wanted=trainer.is_global_zero)
    return pl_module.model if trainer.is_global_zero else None
