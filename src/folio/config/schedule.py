"""The learning-rate schedules and their keys."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from folio.config.section import ConfigError, Count, CountOrZero, NonNegative, Option, Positive


class ScheduleConfig(Option):
    """`code` is a function: step, config, peak, max_steps, d_model -> learning rate; see `folio.optim.schedules`."""

    name: str
    scaled_by: ClassVar[str] = "optimizer.learning_rate"
    """Key that scales the schedule. A run that diverges should lower it."""

    def check(self, peak: float, max_steps: int) -> None:
        """Raises: ConfigError if the schedule does not fit optimizer.learning_rate or training.max_steps."""


class ConstantScheduleConfig(ScheduleConfig):
    """Linear warm-up, then optimizer.learning_rate."""

    code: ClassVar[str] = "folio.optim.schedules:constant"
    name: Literal["constant"]
    warmup_steps: CountOrZero
    """Number of steps over which the learning rate rises linearly."""


class CosineScheduleConfig(ScheduleConfig):
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017)."""

    code: ClassVar[str] = "folio.optim.schedules:cosine"
    name: Literal["cosine"]
    warmup_steps: CountOrZero
    """Number of steps over which the learning rate rises linearly."""
    min_learning_rate: NonNegative | None
    """Learning rate at training.max_steps; a tenth of optimizer.learning_rate when null."""

    def check(self, peak: float, max_steps: int) -> None:
        """Raises: ConfigError."""
        _check_minimum(self.min_learning_rate, peak)
        if self.warmup_steps >= max_steps:
            raise ConfigError(
                f"schedule.warmup_steps={self.warmup_steps} must be below training.max_steps={max_steps}, or the "
                "cosine never begins; lower it"
            )


class WSDScheduleConfig(ScheduleConfig):
    """Warm-up, stable, decay (Hu et al. 2024). Only the decay depends on training.max_steps."""

    code: ClassVar[str] = "folio.optim.schedules:warmup_stable_decay"
    name: Literal["wsd"]
    warmup_steps: CountOrZero
    """Number of steps over which the learning rate rises linearly."""
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of training.max_steps, at their end, over which the learning rate falls linearly."""
    min_learning_rate: NonNegative
    """Learning rate at training.max_steps."""

    def check(self, peak: float, max_steps: int) -> None:
        """Raises: ConfigError."""
        _check_minimum(self.min_learning_rate, peak)
        n_before_decay = int(max_steps - self.decay_share * max_steps)
        if self.warmup_steps > n_before_decay:
            raise ConfigError(
                f"schedule.warmup_steps={self.warmup_steps} must be at most the {n_before_decay} steps that "
                f"schedule.decay_share={self.decay_share} of training.max_steps={max_steps} leaves; lower one"
            )


class NoamScheduleConfig(ScheduleConfig):
    """The original Transformer's schedule, which ignores optimizer.learning_rate.

    Source: Vaswani et al. 2017, section 5.3.
    """

    code: ClassVar[str] = "folio.optim.schedules:noam"
    scaled_by: ClassVar[str] = "schedule.scale"
    name: Literal["noam"]
    warmup_steps: Count
    """Number of steps over which the learning rate rises linearly."""
    scale: Positive
    """Factor on the published learning rate."""


Schedules = ConstantScheduleConfig | CosineScheduleConfig | WSDScheduleConfig | NoamScheduleConfig
"""All schedules that can be chosen. A new one is added here."""


def _check_minimum(min_learning_rate: float | None, peak: float) -> None:
    if (min_learning_rate or 0.0) > peak:
        raise ConfigError(
            f"schedule.min_learning_rate={min_learning_rate} must not be above optimizer.learning_rate={peak}; lower it"
        )
