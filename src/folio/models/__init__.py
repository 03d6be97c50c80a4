"""Transformers in plain PyTorch: nothing here knows a loss, an optimizer, a config file or a logger.

    from folio.models import GPT, GPTConfig
    logits = GPT(GPTConfig(vocab_size=65, context_length=64, n_layers=4, n_heads=4, d_model=128))(tokens)

`GPT` is the decoder, `Encoder` is bidirectional, and `EncoderDecoder` reads a prefix with one and continues it with
the other. All are made of the same blocks. To read the decoder, read `gpt.py`, then `blocks.py`.

Shapes in comments and docstrings, here and everywhere in Folio:

    B batch    T time (tokens)    S source length: the keys that are attended to    D d_model    H heads
    G n_kv_heads, H unless given    K d_head, D / H unless given    F d_ff    V vocabulary
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from folio.models.transformer_config import TransformerConfig

if TYPE_CHECKING:
    from folio.models.encoder import Encoder
    from folio.models.encoder_decoder import EncoderDecoder
    from folio.models.families import Model, build_model
    from folio.models.gpt import GPT

GPTConfig = TransformerConfig
"""The name that users of GPT look for; the defaults are GPT-2's choices."""

__all__ = ["GPT", "Encoder", "EncoderDecoder", "GPTConfig", "Model", "TransformerConfig", "build_model"]

_MODULES = {
    "GPT": "gpt",
    "Encoder": "encoder",
    "EncoderDecoder": "encoder_decoder",
    "Model": "families",
    "build_model": "families",
}


def __getattr__(name: str) -> Any:
    """Import a model, and with it torch, when it is first used.

    Checking a config needs only `TransformerConfig`, so a mistake is reported before the seconds of importing torch.
    """
    if name in _MODULES:
        return getattr(import_module(f"folio.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
