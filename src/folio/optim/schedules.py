"""Learning rates as functions of the step: nothing to save, nothing to restore."""

import math

from folio.config.run import RunConfig
from folio.config.schedule import ConstantScheduleConfig, CosineScheduleConfig, NoamScheduleConfig, WSDScheduleConfig

ScheduleConfig = ConstantScheduleConfig | CosineScheduleConfig | WSDScheduleConfig | NoamScheduleConfig


def learning_rate(step: int, schedule: ScheduleConfig, peak: float, max_steps: int, d_model: int) -> float:
    """The rate of the optimizer step that is number `step`, counted from 0. Noam's has no use for `peak`."""
    if isinstance(schedule, NoamScheduleConfig):
        return noam(step, schedule.warmup_steps, schedule.scale, d_model)
    if step < schedule.warmup_steps:
        return warmup(step, schedule.warmup_steps, peak)
    if isinstance(schedule, ConstantScheduleConfig):
        return peak
    if isinstance(schedule, WSDScheduleConfig):
        left = (max_steps - step) / (schedule.decay_share * max_steps)
        return decay(min(max(left, 0.0), 1.0), peak, schedule.min_learning_rate)
    progress = (step - schedule.warmup_steps) / (max_steps - schedule.warmup_steps)
    lowest = peak / 10 if schedule.min_learning_rate is None else schedule.min_learning_rate
    return cosine(min(progress, 1.0), peak, lowest)


def warmup(step: int, warmup_steps: int, peak: float) -> float:
    """Linear from peak / (warmup_steps + 1), so that no step is lost to a rate of 0 (as in nanoGPT)."""
    return peak * (step + 1) / (warmup_steps + 1)


def cosine(progress: float, peak: float, lowest: float) -> float:
    """Half a cosine from peak (progress 0) to lowest (progress 1). Source: Loshchilov and Hutter 2017, eq. 5."""
    return lowest + (peak - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress))


def decay(left: float, peak: float, lowest: float) -> float:
    """A line from peak (left 1) to lowest (left 0). Source: Hu et al. 2024 (MiniCPM), section 4."""
    return lowest + (peak - lowest) * left


def noam(step: int, warmup_steps: int, scale: float, d_model: int) -> float:
    """Linear for warmup_steps, then down with the root of the step; lower for wider models.

    Source: Vaswani et al. 2017, section 5.3, equation 3, whose steps count from 1.
    """
    number = step + 1
    return scale * d_model**-0.5 * min(number**-0.5, number * warmup_steps**-1.5)


def learning_rates(config: RunConfig) -> list[float]:
    """The rates of all optimizer steps of a run, in their order."""
    peak, max_steps, d_model = config.optimizer.learning_rate, config.training.max_steps, config.model.d_model
    return [learning_rate(step, config.schedule, peak, max_steps, d_model) for step in range(max_steps)]
