"""The three families of models, and how to build one from a config."""

from folio.models.encoder import Encoder
from folio.models.encoder_decoder import EncoderDecoder
from folio.models.gpt import GPT
from folio.models.transformer_config import Family, TransformerConfig

Model = GPT | Encoder | EncoderDecoder
"""Any of them: each has `hidden`, `output`, `config`, `attention_maps` and the counts of its parameters."""

FAMILIES: dict[Family, type[Model]] = {"decoder": GPT, "encoder": Encoder, "encoder_decoder": EncoderDecoder}


def build_model(config: TransformerConfig) -> Model:
    """Build the model of config.family, with new weights."""
    return FAMILIES[config.family](config)
