"""Which objectives there are, and their keys."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from folio.config.section import Count, Option, Share
from folio.models.transformer_config import Family


class ObjectiveConfig(Option):
    """`code` is a subclass of `folio.objectives.objective.Objective`."""

    name: str
    family: ClassVar[Family]
    """Of the models that it trains."""


class CausalLMConfig(ObjectiveConfig):
    """Every token from those before it; for a decoder."""

    code: ClassVar[str] = "folio.objectives.causal_lm:CausalLM"
    family: ClassVar[Family] = "decoder"
    name: Literal["causal_lm"]


class MaskedLMConfig(ObjectiveConfig):
    """Hidden tokens of a line from those on both sides (Devlin et al. 2019, section 3.1); for an encoder."""

    code: ClassVar[str] = "folio.objectives.masked_lm:MaskedLM"
    family: ClassVar[Family] = "encoder"
    name: Literal["masked_lm"]
    mask_fraction: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of the tokens of a line that are asked for; at least one is."""
    mask_share: Share
    """Of those asked for, how many the mask hides."""
    random_share: Share
    """How many another token takes the place of; the rest is left as it is."""


class PrefixLMConfig(ObjectiveConfig):
    """A text from the prefix before it; for an encoder-decoder."""

    code: ClassVar[str] = "folio.objectives.prefix_lm:PrefixLM"
    family: ClassVar[Family] = "encoder_decoder"
    name: Literal["prefix_lm"]
    min_prefix_length: Count
    """In tokens; the length of each prefix is drawn between the two."""
    max_prefix_length: Count | None
    """model.context_length when null."""


Objectives = CausalLMConfig | MaskedLMConfig | PrefixLMConfig
"""All that may be chosen: a new one is entered here, after the one that its family has by default."""
