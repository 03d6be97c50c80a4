"""A prompt for an attention figure: the tokens that the model reads, and the text of each.

Imports no torch, so that a mistake is reported at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from folio.data.tokenizers.base import LosslessTokenizer, Tokenizer
from folio.generation.prompts import MASK, check_prompt, encode_masked
from folio.models import TransformerConfig
from folio.runtime.errors import FolioError

MAX_TOKENS = 24
"""Limit for the prompt and for the prefix: with more, the labels of a figure become illegible."""


class LabeledPrompt(NamedTuple):
    """T tokens that a model reads, and S columns that they attend to."""

    tokens: list[int]
    """(T,)."""
    prefix: list[int]
    """The encoder's input in an encoder-decoder; empty for other models."""
    row_labels: list[str]
    """The text of each of the T tokens."""
    column_labels: list[str]
    """S labels: of the tokens, of the prefix (cross_attention), or of both (hidden_cache)."""
    divider: int
    """The first column after the prefix if both are there; else 0."""
    note: str
    """Says what was left out because it does not fit; empty if nothing was."""


def label_prompt(
    config: TransformerConfig,
    tokenizer: Tokenizer,
    prompt: str,
    prefix: str | None = None,
    max_tokens: int = MAX_TOKENS,
) -> LabeledPrompt:
    """Encode what a model of this config reads: the first tokens of the prompt and the last tokens of the prefix.

    The prompt of an encoder may have blanks, each written [MASK]. The decoder of an encoder-decoder starts with the
    last token of the prefix, and needs no prompt. Raises: FolioError if this model cannot read the text.
    """
    # An encoder can read a text without a blank, too.
    check_prompt(config, tokenizer, prompt + MASK if config.family == "encoder" else prompt, prefix)
    limit = min(max_tokens, config.context_length)
    all_prefix = tokenizer.encode(prefix).tolist() if prefix is not None else []
    encoded = encode_masked(prompt, tokenizer).ids if config.family == "encoder" else tokenizer.encode(prompt).tolist()
    all_tokens = [*all_prefix[-1:], *encoded]
    if not all_tokens:
        raise FolioError(f"prompt={prompt!r} gives no tokens, so there is no attention to draw; give some text")
    tokens, prefix_tokens = all_tokens[:limit], all_prefix[-limit:]
    labels, prefix_labels = token_labels(tokenizer, tokens), token_labels(tokenizer, prefix_tokens)
    shows_both = config.conditioning == "hidden_cache"
    return LabeledPrompt(
        tokens=tokens,
        prefix=prefix_tokens,
        row_labels=labels,
        column_labels=[*prefix_labels, *labels] if shows_both or not prefix_labels else prefix_labels,
        divider=len(prefix_labels) if shows_both else 0,
        note=_note(len(tokens), len(all_tokens), len(prefix_tokens), len(all_prefix)),
    )


def token_labels(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Return the text of each token; bytes that are part of a character as \\xe4, the mask as [MASK]."""
    return [_token_label(tokenizer, token) for token in tokens]


def _token_label(tokenizer: Tokenizer, token: int) -> str:
    if token == tokenizer.vocab_size:
        return MASK
    text = tokenizer.decode([token])
    if "\ufffd" in text and isinstance(tokenizer, LosslessTokenizer):
        return "".join(f"\\x{byte:02x}" for byte in tokenizer.decode_bytes([token]))
    return text


def _note(n_tokens: int, n_all_tokens: int, n_prefix: int, n_all_prefix: int) -> str:
    notes = []
    if n_prefix < n_all_prefix:
        notes.append(f"the last {n_prefix} of {n_all_prefix} tokens of the prefix")
    if n_tokens < n_all_tokens:
        notes.append(f"the first {n_tokens} of {n_all_tokens} tokens")
    return ", ".join(notes)
