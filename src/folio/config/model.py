"""TODO folio.config.model."""

from folio.config.section import Name, Section
from folio.models.transformer_config import Activation, Family, Init, Norm, NormPosition


class ModelConfig(Section):
    """What `TransformerConfig` explains and checks; here only the types."""

    name: Name
    family: Family
    vocab_size: int | None
    """Left out, it is the tokenizer's; it may be padded up to the next multiple of 128."""
    context_length: int
    n_layers: int
    n_heads: int
    d_model: int
    d_ff: int | None
    dropout: float
    attention_dropout: float | None
    bias: bool
    tie_weights: bool
    norm_position: NormPosition
    norm: Norm
    activation: Activation
    qk_norm: bool
    init: Init


class PositionalEncodingConfig(Section):
    name: str
    base: float = 10_000.0
    """Base of the wavelengths of encodings that have some."""
