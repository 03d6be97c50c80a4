"""TODO folio.config.training."""

from typing import Literal

from folio.config.section import Count, Positive, Section


class TrainingConfig(Section):
    max_steps: Count
    """Optimizer steps in the whole run."""
    batch_size: Count
    """Sequences in one optimizer step, over all devices and accumulation."""
    micro_batch_size: Count | None
    """Sequences at once on a device; its whole share of the batch when null."""
    gradient_clip_norm: Positive | None
    """Gradients whose global norm is larger are scaled down to it; null: never."""
    validate_every_steps: Count
    log_every_steps: Count
    checkpoint_every_steps: Count
    on_nan: Literal["stop", "skip"]
    """Where gradients are NaN or infinite: stop the run, or leave the update of that step out."""
    max_nan_steps: Count
    """Of on_nan=skip: so many such steps in a row stop the run."""
