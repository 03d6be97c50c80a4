"""Learning rates as pure functions of the step, so that a checkpoint holds no schedule.

Each schedule is a function of the step (counted from 0), its config, the peak (optimizer.learning_rate), the number of
steps and the width of the model.
"""

import math

from folio.config.run import RunConfig
from folio.config.schedule import ConstantScheduleConfig, CosineScheduleConfig, NoamScheduleConfig, WSDScheduleConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """Return the learning rate of an optimizer step, counted from 0."""
    schedule = config.schedule
    peak, max_steps = config.optimizer.learning_rate, config.training.max_steps
    return schedule.load_code()(step, schedule, peak, max_steps, config.model.d_model)


def learning_rates(config: RunConfig) -> list[float]:
    """Return the learning rates of all optimizer steps of a run."""
    return [learning_rate(config, step) for step in range(config.training.max_steps)]


def constant(step: int, config: ConstantScheduleConfig, peak: float, max_steps: int, d_model: int) -> float:
    """Linear warm-up, then the peak."""
    if step < config.warmup_steps:
        return warmup(step, config.warmup_steps, peak)
    return peak


def cosine(step: int, config: CosineScheduleConfig, peak: float, max_steps: int, d_model: int) -> float:
    """Linear warm-up, then half a cosine down to the minimum. Source: Loshchilov and Hutter 2017, equation 5."""
    if step < config.warmup_steps:
        return warmup(step, config.warmup_steps, peak)
    minimum = peak / 10 if config.min_learning_rate is None else config.min_learning_rate
    progress = min((step - config.warmup_steps) / (max_steps - config.warmup_steps), 1.0)
    return minimum + (peak - minimum) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_stable_decay(step: int, config: WSDScheduleConfig, peak: float, max_steps: int, d_model: int) -> float:
    """Linear warm-up, the peak, and a line down to the minimum. Source: Hu et al. 2024 (MiniCPM), section 4."""
    if step < config.warmup_steps:
        return warmup(step, config.warmup_steps, peak)
    remaining = (max_steps - step) / (config.decay_share * max_steps)
    return config.min_learning_rate + (peak - config.min_learning_rate) * min(max(remaining, 0.0), 1.0)


def noam(step: int, config: NoamScheduleConfig, peak: float, max_steps: int, d_model: int) -> float:
    """Linear warm-up, then a decay with the square root of the step; lower for wider models. Ignores the peak.

    Source: Vaswani et al. 2017, section 5.3, equation 3, which counts steps from 1.
    """
    number = step + 1
    return config.scale * d_model**-0.5 * min(number**-0.5, number * config.warmup_steps**-1.5)


def warmup(step: int, warmup_steps: int, peak: float) -> float:
    """Rise linearly from peak / (warmup_steps + 1), so that no step is wasted at a rate of 0 (as in nanoGPT)."""
    return peak * (step + 1) / (warmup_steps + 1)
