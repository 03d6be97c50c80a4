"""The objectives and their keys."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from folio.config.section import ConfigError, Count, Option, Share
from folio.models.transformer_config import Family


class ObjectiveConfig(Option):
    """`code` is a subclass of `folio.objectives.objective.Objective`."""

    name: str
    family: ClassVar[Family]
    """Family of the models that the objective trains."""
    reads_lines: ClassVar[bool] = False
    """Whether batches hold the lines of the text, of any length, instead of windows."""

    def window_length(self, context_length: int) -> int:
        """Return the number of tokens of a window: those that the model reads, and the last target."""
        return context_length + 1

    def check(self, context_length: int) -> None:
        """Raises: ConfigError if the keys do not fit together, or do not fit model.context_length."""


class CausalLMConfig(ObjectiveConfig):
    """Predict every token from those before it; for a decoder."""

    code: ClassVar[str] = "folio.objectives.causal_lm:CausalLM"
    family: ClassVar[Family] = "decoder"
    name: Literal["causal_lm"]
    token_noise: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Share of the tokens read in training that random ones replace; the targets stay as they are."""


class MaskedLMConfig(ObjectiveConfig):
    """Predict hidden tokens of a line from both sides (Devlin et al. 2019, section 3.1); for an encoder."""

    code: ClassVar[str] = "folio.objectives.masked_lm:MaskedLM"
    family: ClassVar[Family] = "encoder"
    reads_lines: ClassVar[bool] = True
    name: Literal["masked_lm"]
    mask_fraction: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of a line's tokens that are targets; at least one is."""
    mask_share: Share
    """Share of the targets that the mask replaces."""
    random_share: Share
    """Share of the targets that a random token replaces. The rest stay visible."""

    def check(self, context_length: int) -> None:
        """Raises: ConfigError."""
        if self.mask_share + self.random_share > 1.0:
            raise ConfigError(
                f"objective.mask_share={self.mask_share} and objective.random_share={self.random_share} must not add "
                "up to more than 1; BERT has 0.8 and 0.1"
            )


class PrefixLMConfig(ObjectiveConfig):
    """Predict a text from the prefix before it; for an encoder-decoder."""

    code: ClassVar[str] = "folio.objectives.prefix_lm:PrefixLM"
    family: ClassVar[Family] = "encoder_decoder"
    name: Literal["prefix_lm"]
    min_prefix_length: Count
    """Tokens of the shortest prefix. Lengths are drawn uniformly."""
    max_prefix_length: Count | None
    """Tokens of the longest prefix; model.context_length when null."""

    def prefix_lengths(self, context_length: int) -> tuple[int, int]:
        """Return the lengths of the shortest and the longest prefix."""
        return self.min_prefix_length, self.max_prefix_length or context_length

    def window_length(self, context_length: int) -> int:
        """Return the number of tokens of the longest prefix and of the text that follows it."""
        return self.prefix_lengths(context_length)[1] + context_length

    def check(self, context_length: int) -> None:
        """Raises: ConfigError."""
        shortest, longest = self.prefix_lengths(context_length)
        if longest > context_length:
            raise ConfigError(
                f"objective.max_prefix_length={longest} must not be above model.context_length={context_length}, "
                "the longest text that the encoder reads; null sets it to that"
            )
        if shortest > longest:
            raise ConfigError(
                f"objective.min_prefix_length={shortest} must not be above the longest prefix, {longest} tokens; "
                "lower it"
            )


Objectives = CausalLMConfig | MaskedLMConfig | PrefixLMConfig
"""All objectives that can be chosen. A new one is added here, after the default of its family."""
