"""Which class a config means."""

from folio.models.encoder import Encoder
from folio.models.encoder_decoder import EncoderDecoder
from folio.models.gpt import GPT
from folio.models.transformer_config import Family, TransformerConfig

Model = GPT | Encoder | EncoderDecoder
"""All have `hidden`, which the output layer reads, `output`, `config` and the counts of their parameters."""

FAMILIES: dict[Family, type[Model]] = {"decoder": GPT, "encoder": Encoder, "encoder_decoder": EncoderDecoder}


def build_model(config: TransformerConfig) -> Model:
    """The model of config.family, with new weights."""
    return FAMILIES[config.family](config)
