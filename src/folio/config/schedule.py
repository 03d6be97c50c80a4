"""TODO folio.config.schedule."""

from typing import Annotated, Literal

from pydantic import Field

from folio.config.section import ConfigError as ConfigError
from folio.config.section import Count, CountOrZero, NonNegative, Positive, Section


class ConstantScheduleConfig(Section):
    name: Literal["constant"]
    warmup_steps: CountOrZero


class CosineScheduleConfig(Section):
    name: Literal["cosine"]
    warmup_steps: CountOrZero
    min_learning_rate: NonNegative | None
    """Where the cosine ends, at training.max_steps; a tenth of optimizer.learning_rate when null."""


class WSDScheduleConfig(Section):
    """Warm-up, stable, decay: constant between the two, so only the last part knows where the run ends."""

    name: Literal["wsd"]
    warmup_steps: CountOrZero
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Of training.max_steps: the last ones, over which the rate falls linearly."""
    min_learning_rate: NonNegative
    """Where the decay ends, at training.max_steps."""


class NoamScheduleConfig(Section):
    """The schedule of the Transformer's first paper, which sets the rate itself: optimizer.learning_rate has no part.

    Source: Vaswani et al. 2017, section 5.3.
    """

    name: Literal["noam"]
    warmup_steps: Count
    scale: Positive
    """Multiplies the published rate."""
