"""Learning rates as functions of the step: nothing to save, nothing to restore."""

import math

from folio.config import ConstantScheduleConfig, CosineScheduleConfig

ScheduleConfig = ConstantScheduleConfig | CosineScheduleConfig


def learning_rate(step: int, schedule: ScheduleConfig, peak: float, max_steps: int) -> float:
    """The rate of the optimizer step that is number `step`, counted from 0."""
    if step < schedule.warmup_steps:
        return warmup(step, schedule.warmup_steps, peak)
    if isinstance(schedule, ConstantScheduleConfig):
        return peak
    progress = (step - schedule.warmup_steps) / (max_steps - schedule.warmup_steps)
    lowest = peak / 10 if schedule.min_learning_rate is None else schedule.min_learning_rate
    return cosine(min(progress, 1.0), peak, lowest)


def warmup(step: int, warmup_steps: int, peak: float) -> float:
    """Linear from peak / (warmup_steps + 1), so that no step is lost to a rate of 0 (as in nanoGPT)."""
    return peak * (step + 1) / (warmup_steps + 1)


def cosine(progress: float, peak: float, lowest: float) -> float:
    """Half a cosine from peak (progress 0) to lowest (progress 1). Source: Loshchilov and Hutter 2017, eq. 5."""
    return lowest + (peak - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress))
