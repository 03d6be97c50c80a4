"""What a model is given to write from: encoded, and checked against the model.

Imports no torch, so that a mistake is answered at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.rank_files import ENCODINGS
from folio.data.tokenizers.word import WORD
from folio.models import TransformerConfig
from folio.models.transformer_config import Family
from folio.runtime.errors import FolioError

MASK = "[MASK]"
"""One token that an encoder is asked for."""


class MaskedText(NamedTuple):
    """A text with blanks in it."""

    ids: list[int]
    """Those of its tokens; a blank has the one that follows the tokenizer's, as in training."""
    pieces: list[str]
    """The text before, between and after the blanks, to be shown with the tokens that fill them."""


def encode_masked(text: str, tokenizer: Tokenizer) -> MaskedText:
    """Encode the text around each MASK.

    A blank includes the spaces that its token includes: with tiktoken's encodings the one before it, as for RoBERTa's
    mask (" be" is one token), with words those on both sides, which have no token of their own; else none.
    """
    shown = text.split(MASK)
    without_before = [*(piece.removesuffix(" ") for piece in shown[:-1]), shown[-1]]
    encoded = shown
    if tokenizer.name in ENCODINGS:
        shown = encoded = without_before
    elif tokenizer.name == WORD:
        encoded = [without_before[0], *(piece.removeprefix(" ") for piece in without_before[1:])]
    ids = tokenizer.encode(encoded[0]).tolist()
    for piece in encoded[1:]:
        ids += [tokenizer.vocab_size, *tokenizer.encode(piece).tolist()]
    return MaskedText(ids, shown)


def default_prompt(family: Family) -> str:
    """What a model goes on from where only its prefix, or nothing at all, is given."""
    return "\n" if family == "decoder" else ""


def last_position(config: TransformerConfig) -> int | None:
    """How many positions a model of this config knows; None where its positional encoding has no end."""
    return config.context_length if config.positional_encoding == "learned" else None


def check_request(
    config: TransformerConfig,
    tokenizer: Tokenizer,
    prompt: str,
    prefix: str | None = None,
    *,
    stop: Sequence[str] = (),
    window: int | None = None,
    longest: int | None = None,
) -> None:
    """Whether a model of this config can write from prompt and prefix; `longest` is how many positions it knows.

    Raises: FolioError.
    """
    _check_vocabulary(config, tokenizer)
    if prefix is not None and config.family != "encoder_decoder":
        raise FolioError(
            f"prefix={_short(prefix)} is for an encoder-decoder, and the model is {_NAMES[config.family]}; "
            "give it as the prompt instead"
        )
    if config.family == "encoder":
        _check_blanks(tokenizer, prompt, stop, window, longest)
        return
    if config.family == "encoder_decoder":
        _check_prefix(tokenizer, prefix, longest)
    if not len(tokenizer.encode(prompt)) and config.family == "decoder":
        raise FolioError(f"prompt={prompt!r} gives no tokens, and a model continues at least one; give some text")
    if window is not None and window < 1:
        raise FolioError(f"window={window} must be 1 or more; leave it out for the model's own {config.context_length}")
    if window is not None and longest is not None and window > longest:
        raise FolioError(
            f"window={window} is longer than the {longest} positions that the model's positional encoding "
            f"({config.positional_encoding}) was trained for; lower it to {longest}, or leave it out"
        )


_NAMES: dict[Family, str] = {
    "decoder": "a decoder, which has nothing that reads it",
    "encoder": "an encoder, which fills the blanks of a prompt",
    "encoder_decoder": "an encoder-decoder",
}


def _check_vocabulary(config: TransformerConfig, tokenizer: Tokenizer) -> None:
    n_symbols = tokenizer.vocab_size + (config.family == "encoder")
    if n_symbols > config.vocab_size:
        raise FolioError(
            f"tokenizer={tokenizer.name} has {n_symbols} symbols, and the model was trained with {config.vocab_size}; "
            "use the tokenizer that it was trained with"
        )


def _check_blanks(
    tokenizer: Tokenizer, prompt: str, stop: Sequence[str], window: int | None, longest: int | None
) -> None:
    if MASK not in prompt:
        raise FolioError(
            f"prompt={_short(prompt)} has no {MASK}, and the model is an encoder, which fills blanks; "
            f'write one, as in "To be, or not to {MASK}"'
        )
    for name, value in (("stop", stop), ("window", window)):
        if value:
            raise FolioError(f"{name} has no effect with an encoder, which fills blanks and adds no text; leave it out")
    _check_length("prompt", len(encode_masked(prompt, tokenizer).ids), longest)


def _check_prefix(tokenizer: Tokenizer, prefix: str | None, longest: int | None) -> None:
    if prefix is None:
        raise FolioError(
            "the model is an encoder-decoder, which continues a prefix, and there is none; give one, "
            'as in --prefix "ROMEO:"'
        )
    n_tokens = len(tokenizer.encode(prefix))
    if not n_tokens:
        raise FolioError(f"prefix={prefix!r} gives no tokens, and the model reads at least one; give some text")
    _check_length("prefix", n_tokens, longest)


def _check_length(name: str, n_tokens: int, longest: int | None) -> None:
    if longest is not None and n_tokens > longest:
        raise FolioError(
            f"a {name} of {n_tokens} tokens is longer than the model's context_length={longest}, where its positions "
            f"end; shorten it by {n_tokens - longest}"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
