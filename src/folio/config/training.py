"""The `training` section of the config: the loop."""

from typing import Literal

from folio.config.section import Count, Positive, Section


class TrainingConfig(Section):
    """How long to train, on how much at once, and what to do how often."""

    max_steps: Count
    """Number of optimizer steps in the run."""
    batch_size: Count
    """Number of sequences in one optimizer step, over all devices and micro-batches."""
    micro_batch_size: Count | None
    """Number of sequences in one forward pass on a device; the device's whole share of the batch when null."""
    gradient_clip_norm: Positive | None
    """Global norm to which larger gradients are scaled down; no clipping when null."""
    validate_every_steps: Count
    log_every_steps: Count
    checkpoint_every_steps: Count
    on_nan: Literal["stop", "skip"]
    """Reaction to NaN or infinite gradients: stop the run, or skip the update of that step."""
    max_nan_steps: Count
    """Number of skipped updates in a row that stops the run."""
