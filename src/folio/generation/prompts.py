"""Encode what a model is given to write from, and check it against the model.

Imports no torch, so that a mistake is reported at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from folio.data.tokenizers.base import Tokenizer
from folio.models import TransformerConfig
from folio.models.transformer_config import Family
from folio.runtime.errors import FolioError

MASK = "[MASK]"
"""A blank in the prompt of an encoder, to be filled with one token."""


class MaskedText(NamedTuple):
    """A text with blanks in it."""

    ids: list[int]
    """Token ids; a blank has the id after the tokenizer's last, as in training."""
    pieces: list[str]
    """The text before, between and after the blanks, to be printed with the tokens that fill them."""


def encode_masked(text: str, tokenizer: Tokenizer) -> MaskedText:
    """Encode the text around each MASK.

    A blank includes the spaces that belong to the token of a word. With byte pairs that is the space before it, as for
    RoBERTa's mask (" be" is one token), and with the word tokenizer those on both sides.
    """
    shown = text.split(MASK)
    without_before = [*(piece.removesuffix(" ") for piece in shown[:-1]), shown[-1]]
    encoded = shown
    if tokenizer.spaces_of_words == "before":
        shown = encoded = without_before
    elif tokenizer.spaces_of_words == "around":
        encoded = [without_before[0], *(piece.removeprefix(" ") for piece in without_before[1:])]
    ids = tokenizer.encode(encoded[0]).tolist()
    for piece in encoded[1:]:
        ids += [tokenizer.vocab_size, *tokenizer.encode(piece).tolist()]
    return MaskedText(ids, shown)


def default_prompt(family: Family, tokenizer: Tokenizer, sample_prompt: str) -> str:
    """Return the prompt to use if none is given: a new line if the tokenizer has it, else what the run's samples start
    with."""
    if family != "decoder":
        return ""
    try:
        tokenizer.encode("\n")
    except FolioError:
        return sample_prompt
    return "\n"


def check_request(
    config: TransformerConfig,
    tokenizer: Tokenizer,
    prompt: str,
    prefix: str | None = None,
    *,
    stop: Sequence[str] = (),
    window: int | None = None,
) -> None:
    """Check that a model of this config can write from prompt and prefix with these options. Raises: FolioError."""
    check_prompt(config, tokenizer, prompt, prefix)
    longest = config.max_positions
    if config.family == "encoder":
        for name, value in (("stop", stop), ("window", window)):
            if value:
                raise FolioError(
                    f"{name} has no effect with an encoder, which fills blanks and adds no text; leave it out"
                )
        _check_length(len(encode_masked(prompt, tokenizer).ids), longest)
        return
    if window is not None and window < 1:
        raise FolioError(f"window={window} must be 1 or more; leave it out for the model's own {config.context_length}")
    if window is not None and longest is not None and window > longest:
        raise FolioError(
            f"window={window} is longer than the {longest} positions that the model's positional encoding "
            f"({config.positional_encoding}) was trained for; lower it to {longest}, or leave it out"
        )


def check_prompt(config: TransformerConfig, tokenizer: Tokenizer, prompt: str, prefix: str | None = None) -> None:
    """Check that prompt and prefix suit the family and the vocabulary, at any length. Raises: FolioError."""
    n_symbols = tokenizer.vocab_size + (config.family == "encoder")
    if n_symbols > config.vocab_size:
        raise FolioError(
            f"tokenizer={tokenizer.name} has {n_symbols} symbols, but the model was trained with {config.vocab_size}; "
            "use the tokenizer that it was trained with"
        )
    if prefix is not None and config.family != "encoder_decoder":
        raise FolioError(
            f"prefix={_short(prefix)} is for an encoder-decoder, but the model is {_FAMILY_NAMES[config.family]}; "
            "give it as the prompt instead"
        )
    if config.family == "encoder" and MASK not in prompt:
        raise FolioError(
            f"prompt={_short(prompt)} has no {MASK}, and the model is an encoder, which fills blanks; "
            f'write one, as in "To be, or not to {MASK}"'
        )
    if config.family == "decoder" and not len(tokenizer.encode(prompt)):
        raise FolioError(f"prompt={prompt!r} gives no tokens, but a model continues at least one; give some text")
    if config.family == "encoder_decoder":
        _check_prefix(tokenizer, prefix)


_FAMILY_NAMES: dict[Family, str] = {
    "decoder": "a decoder, which has no encoder to read it",
    "encoder": "an encoder, which fills the blanks of a prompt",
    "encoder_decoder": "an encoder-decoder",
}


def _check_prefix(tokenizer: Tokenizer, prefix: str | None) -> None:
    if prefix is None:
        raise FolioError(
            "the model is an encoder-decoder, which continues a prefix, and there is none; give one, "
            'as in --prefix "ROMEO:"'
        )
    if not len(tokenizer.encode(prefix)):
        raise FolioError(f"prefix={prefix!r} gives no tokens, but the model reads at least one; give some text")


def _check_length(n_tokens: int, longest: int | None) -> None:
    if longest is not None and n_tokens > longest:
        raise FolioError(
            f"a prompt of {n_tokens} tokens is longer than the model's context_length={longest}, where its positions "
            f"end; shorten it by {n_tokens - longest}"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
