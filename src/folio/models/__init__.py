"""Transformers in plain PyTorch: nothing here knows a loss, an optimizer, a config file or a logger.

    from folio.models import GPT, GPTConfig
    logits = GPT(GPTConfig(vocab_size=65, context_length=64, n_layers=4, n_heads=4, d_model=128))(tokens)

Legend of the shapes in comments and docstrings, here and everywhere in Folio:

    B batch    T time (tokens)    D d_model    H heads    K d_head = D / H    F d_ff    V vocabulary
"""

from typing import TYPE_CHECKING, Any

from folio.models.gpt_config import GPTConfig

if TYPE_CHECKING:
    from folio.models.gpt import GPT

__all__ = ["GPT", "GPTConfig"]


def __getattr__(name: str) -> Any:
    """Import the model, and with it torch, when it is first asked for.

    A config is checked by `GPTConfig` alone, so that a mistake is answered before torch's import of seconds.
    """
    if name == "GPT":
        from folio.models.gpt import GPT

        return GPT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
