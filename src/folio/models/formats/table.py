"""All formats. A new one is added here."""

from folio.models.formats.format import Format
from folio.models.formats.gpt2 import GPT2
from folio.models.formats.gpt_neox import GPT_NEOX
from folio.models.formats.llama import LLAMA, MISTRAL, QWEN3

FORMATS: dict[str, Format] = {format_.model_type: format_ for format_ in (GPT2, GPT_NEOX, LLAMA, MISTRAL, QWEN3)}
"""model_type in config.json -> format. Of several that hold a model, the first is written."""
