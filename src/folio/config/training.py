"""The `training` section of the config: the loop."""

import math
from typing import Literal

from folio.config.section import Count, Positive, Section


class TrainingConfig(Section):
    """The length of the training, the size of a step, and the intervals of what happens between steps."""

    max_steps: Count
    """Number of optimizer steps in the run."""
    batch_size: Count
    """Number of sequences in one optimizer step, over all devices and micro-batches."""
    micro_batch_size: Count | None
    """Number of sequences in one forward pass on a device; the device's whole share of the batch when null."""
    loss_on: Literal["all", "completion"]
    """Tokens that the loss covers: all, or of documents with a prompt and a completion only those of the completion."""
    gradient_clip_norm: Positive | None
    """Global norm to which larger gradients are scaled down; no clipping when null."""
    validate_every_steps: Count
    """Number of steps between validations on the whole validation split. The last step has one too."""
    log_every_steps: Count
    """Number of steps between two points of the training curves, each a mean over these steps."""
    checkpoint_every_steps: Count
    """Number of steps between two writings of last.ckpt. The last step and a signal write it too."""
    on_nan: Literal["stop", "skip"]
    """Reaction to NaN or infinite gradients: stop the run, or skip the update of that step."""
    max_nan_steps: Count
    """Number of skipped updates in a row that stops the run."""

    def is_log_step(self, step: int) -> bool:
        """Return whether metrics are logged after this step."""
        return step % self.log_every_steps == 0 or step == self.max_steps

    def is_validation_step(self, step: int) -> bool:
        """Return whether a validation follows this step."""
        return step % self.validate_every_steps == 0 or step == self.max_steps

    def is_checkpoint_step(self, step: int) -> bool:
        """Return whether last.ckpt is saved after this step."""
        return step % self.checkpoint_every_steps == 0 or step == self.max_steps


def largest_micro_batch_size(per_process: int, at_most: int) -> int:
    """Return the largest micro-batch size, up to `at_most`, that divides the share of a process in the batch, or 0."""
    small = [divisor for divisor in range(1, math.isqrt(per_process) + 1) if per_process % divisor == 0]
    divisors = (divisor for low in small for divisor in (low, per_process // low))
    return max((divisor for divisor in divisors if divisor <= at_most), default=0)
