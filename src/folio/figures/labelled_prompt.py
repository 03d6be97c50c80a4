"""A prompt as a picture of attention shows it: the tokens that the model reads, and the text of each.

Imports no torch, so that a mistake is answered at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from folio.data.tokenizers.base import LosslessTokenizer, Tokenizer
from folio.generation.prompts import MASK, check_request, encode_masked
from folio.models import TransformerConfig
from folio.runtime.errors import FolioError

MOST_TOKENS = 24
"""Of prompt and of prefix: with more, the labels of a picture cannot be read."""


class LabelledPrompt(NamedTuple):
    """What a model reads: T tokens, and S columns that it attends to."""

    tokens: list[int]
    """(T,)."""
    prefix: list[int]
    """What an encoder-decoder reads with its encoder; empty for the others."""
    row_labels: list[str]
    """The text of each token, T of them."""
    column_labels: list[str]
    """S of them: of the tokens, of the prefix (cross_attention), or of both (hidden_cache)."""
    divider: int
    """The first column behind the prefix where both are there; else 0."""
    note: str
    """What was left out because it would not fit; empty where nothing was."""


def label_prompt(
    config: TransformerConfig, tokenizer: Tokenizer, prompt: str, prefix: str | None = None
) -> LabelledPrompt:
    """What a model of this config reads of a prompt: its first tokens, and of a prefix the last.

    The prompt of an encoder may have blanks, each written [MASK]. The decoder of an encoder-decoder begins with the
    last token of the prefix, and needs no prompt. Raises: FolioError for what this model cannot read.
    """
    # An encoder reads a text without a blank as well.
    check_request(config, tokenizer, prompt + MASK if config.family == "encoder" else prompt, prefix)
    most = min(MOST_TOKENS, config.context_length)
    whole_prefix = tokenizer.encode(prefix).tolist() if prefix is not None else []
    encoded = encode_masked(prompt, tokenizer).ids if config.family == "encoder" else tokenizer.encode(prompt).tolist()
    whole = [*whole_prefix[-1:], *encoded]
    if not whole:
        raise FolioError(f"prompt={prompt!r} gives no tokens, and there is no attention without; give some text")
    tokens, read = whole[:most], whole_prefix[-most:]
    rows, before = token_labels(tokenizer, tokens), token_labels(tokenizer, read)
    is_both = config.conditioning == "hidden_cache"
    return LabelledPrompt(
        tokens=tokens,
        prefix=read,
        row_labels=rows,
        column_labels=[*before, *rows] if is_both or not before else before,
        divider=len(before) if is_both else 0,
        note=_note(len(tokens), len(whole), len(read), len(whole_prefix)),
    )


def token_labels(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """The text of each token; bytes that are part of a character as \\xe4, the mask as [MASK]."""
    return [_token_label(tokenizer, token) for token in tokens]


def _token_label(tokenizer: Tokenizer, token: int) -> str:
    if token == tokenizer.vocab_size:
        return MASK
    text = tokenizer.decode([token])
    if "\ufffd" in text and isinstance(tokenizer, LosslessTokenizer):
        return "".join(f"\\x{byte:02x}" for byte in tokenizer.decode_bytes([token]))
    return text


def _note(n_tokens: int, n_all: int, n_prefix: int, n_all_prefix: int) -> str:
    notes = []
    if n_prefix < n_all_prefix:
        notes.append(f"the last {n_prefix} of {n_all_prefix} tokens of the prefix")
    if n_tokens < n_all:
        notes.append(f"the first {n_tokens} of {n_all} tokens")
    return ", ".join(notes)
