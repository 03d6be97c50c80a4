"""The `model` and `positional_encoding` sections of the config, and which key is which option of a model."""

from folio.config.section import Name, Section
from folio.models.rotary_scaling import RotaryScaling
from folio.models.transformer_config import ModelOptions, PositionInit


class ModelConfig(Section, ModelOptions):  # type: ignore[misc]  # mypy does not see that a Section is frozen too
    """The options of `ModelOptions`, whose types and defaults pydantic reads from there, and two more.

    `RunConfig.transformer_config` checks that the values fit together.
    """

    name: Name
    """Name of the size, which becomes part of run_name."""
    vocab_size: int | None
    """The tokenizer's when null; it may be padded up to the next multiple of 128."""


class RotaryScalingConfig(Section, RotaryScaling):  # type: ignore[misc]  # as above
    """The options of `RotaryScaling`."""


class PositionalEncodingConfig(Section):
    name: str
    """A file of conf/positional_encoding, and a key of `folio.models.positional.POSITIONAL_ENCODINGS`."""
    base: float = 10_000.0
    """Base of the wavelengths of encodings that have some."""
    init: PositionInit = "normal"
    """Initial vectors of encodings that learn them."""
    width: int | None = None
    """Width of the position vectors of concatenated positions; half of d_model when null."""
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that rotary positions rotate."""
    rotary_scaling: RotaryScalingConfig | None = None
    """How rotary positions are stretched to a longer context, as in Llama 3 or by YaRN; not at all when null."""


OPTION_KEYS = {key: f"model.{key}" for key in ModelConfig.model_fields} | {
    key if key.startswith("rotary_") else f"positional_{key}": f"positional_encoding.{key}"
    for key in PositionalEncodingConfig.model_fields
    if key != "name"
}
"""Option of `TransformerConfig` -> dotted key. positional_encoding.name is the option positional_encoding."""
