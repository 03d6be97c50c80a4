"""Check a tokenizer.json of unknown origin before Hugging Face's library reads it.

The library runs no code that the file names, but it believes the file: a pattern can take forever, replacements can
multiply a text, an id of four billion asks for a model of that size, and truncation silently cuts every text.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from folio.data.tokenizers.patterns import UncheckedPatternError, check_pattern
from folio.runtime.untrusted import MIB, UntrustedFileError, parse_json, shown

MAX_JSON_BYTES = 44 * MIB
"""Limit for the file. That of cl100k_base, with 100,277 tokens, has 3 MB."""

MAX_TOKEN_CHARACTERS = 1024
MAX_STEPS = 200
"""Limit for the normalizers, pre-tokenizers and decoders together."""
MAX_ADDED_TOKENS = 100_000
MAX_GROWTH = 16
"""Limit for how many times longer a text may become when it is normalized."""
MAX_CHARSMAP_BYTES = 64
"""Limit for a replacement in SentencePiece's table of characters; the longest of Unicode's NFKC has 33 bytes."""
MAX_WORD_CHARACTERS = 1000
MAX_MERGES = 16
"""Limit for the merges per token: a file may list every pair that makes a token."""

MODELS = ("BPE", "WordPiece", "WordLevel", "Unigram")


class TokenizerJSONError(ValueError):
    """A tokenizer.json that cannot be used. The message says why, without the path."""


class TokenizerJSON(NamedTuple):
    """A checked tokenizer.json.

    >>> content = b'{"model": {"type": "WordLevel", "vocab": {"be": 0, "to": 1}, "unk_token": "<unk>"}}'
    >>> check_tokenizer_json(content).ids
    {'be': 0, 'to': 1}
    """

    value: dict[str, Any]
    """The content, by which a text is encoded as it is: without truncation, padding, random segmentation (BPE dropout)
    and tokens that are added around it."""
    ids: dict[str, int]
    """The id of each token, added ones included."""
    adds_tokens: bool
    """Whether the file adds tokens around a text, which `value` does not."""

    def for_library(self) -> str:
        """Return the content as the library reads it. Raises: TokenizerJSONError."""
        text = json.dumps(self.value, ensure_ascii=False)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise TokenizerJSONError("it holds half of a surrogate pair") from None
        return text


def check_tokenizer_json(content: bytes) -> TokenizerJSON:
    """Return the content of a tokenizer.json. Raises: TokenizerJSONError."""
    value = _parse(content)
    model = _model_of(value)
    _check_components(value)
    ids = _ids_of(value, model)
    _check_ids(ids)
    _check_merges(model.get("merges"), len(ids))
    as_it_is = {"truncation": None, "padding": None, "post_processor": None, "model": model}
    return TokenizerJSON(value | as_it_is, ids, adds_tokens=_adds_tokens(value.get("post_processor")))


def _parse(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_JSON_BYTES:
        raise TokenizerJSONError(f"it has {len(content):,} bytes, and Folio reads at most {MAX_JSON_BYTES:,}")
    try:
        value = parse_json(content.decode("utf-8-sig"), Path("tokenizer.json"))
    except UnicodeDecodeError as error:
        raise TokenizerJSONError(f"it is not UTF-8 text (byte {error.start})") from None
    except UntrustedFileError as error:
        raise TokenizerJSONError(f"it {error.problem}") from None
    if not isinstance(value, dict):
        raise TokenizerJSONError("it is not a JSON object")
    if "name" in value and "model" not in value:
        raise TokenizerJSONError(
            f"it is Folio's own record of tokenizer={shown(str(value['name']))}, and not the file that "
            "scripts/export.py makes of it"
        )
    return value


def _model_of(value: dict[str, Any]) -> dict[str, Any]:
    """Return the model, whose type files of older versions leave out, without what makes it random."""
    model = value.get("model")
    if not isinstance(model, dict):
        raise TokenizerJSONError("it has no model")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in MODELS:
        raise TokenizerJSONError(f"its model has the type {shown(repr(kind))}; known are {', '.join(MODELS)}")
    if kind == "WordPiece" and not _is_count(model.get("max_input_chars_per_word", 100), MAX_WORD_CHARACTERS):
        raise TokenizerJSONError(f"max_input_chars_per_word must be a number up to {MAX_WORD_CHARACTERS}")
    if kind == "Unigram":
        _check_pieces(model.get("vocab"))
    return model | {"type": kind} | ({"dropout": None} if kind == "BPE" else {})


def _check_pieces(pieces: Any) -> None:
    is_list = isinstance(pieces, list) and all(isinstance(piece, list) and len(piece) == 2 for piece in pieces)
    if not is_list or not all(isinstance(score, int | float) and math.isfinite(score) for _, score in pieces):
        raise TokenizerJSONError("the vocabulary of its Unigram model must be a list of tokens with finite scores")


def _ids_of(value: dict[str, Any], model: dict[str, Any]) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if model["type"] == "Unigram":
        tokens = [piece for piece, _ in model["vocab"]]
        ids = dict(zip(tokens, range(len(tokens)), strict=True)) if all(isinstance(t, str) for t in tokens) else {}
    else:
        ids = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    if not ids:
        raise TokenizerJSONError("its model has no vocabulary")
    for token in _added_tokens(value):
        name, number = token["content"], token["id"]
        if ids.setdefault(name, number) != number:
            raise TokenizerJSONError(f"it gives {shown(repr(name))} two ids, {ids[name]} and {number}")
    return ids


def _added_tokens(value: dict[str, Any]) -> list[dict[str, Any]]:
    added = value.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise TokenizerJSONError(f"added_tokens must be a list of at most {MAX_ADDED_TOKENS:,}")
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not token["content"]:
            raise TokenizerJSONError("an entry of added_tokens has no content")
        if not _is_count(token.get("id")):
            raise TokenizerJSONError(f"the added token {shown(repr(token['content']))} has no id")
    return added


def _check_ids(ids: dict[str, int]) -> None:
    """Check that the ids are different numbers without large gaps, since the model has a row for each."""
    for token, number in ids.items():
        if not _is_count(number):
            raise TokenizerJSONError(
                f"the id of {shown(repr(token))} is {shown(repr(number))}, which is no whole number"
            )
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenizerJSONError(f"it has a token of more than {MAX_TOKEN_CHARACTERS} characters")
    highest, n_tokens = max(ids.values()), len(ids)
    if highest >= 2 * n_tokens + 1000:
        raise TokenizerJSONError(f"its ids go up to {highest}, but it has only {n_tokens:,} tokens")
    if len(set(ids.values())) < n_tokens:
        raise TokenizerJSONError("two of its tokens have one id")


def _check_merges(merges: Any, n_tokens: int) -> None:
    if isinstance(merges, list) and len(merges) > MAX_MERGES * n_tokens:
        raise TokenizerJSONError(f"it has {len(merges):,} merges for {n_tokens:,} tokens")


def _check_components(value: dict[str, Any]) -> None:
    """Check normalizer, pre-tokenizer and decoder, whatever their types: the library refuses types that it lacks."""
    growth, n_steps = 1.0, 0
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        for step in _steps(value.get(part)):
            n_steps += 1
            pattern = step.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, dict) else None
            if isinstance(regex, str):
                try:
                    check_pattern(regex)
                except UncheckedPatternError as error:
                    raise TokenizerJSONError(f"its pattern {shown(regex)} might take forever: {error}") from None
            growth *= _growth(step, pattern) if part == "normalizer" else 1
            if n_steps > MAX_STEPS:
                raise TokenizerJSONError(f"it has more than {MAX_STEPS} normalizers, pre-tokenizers and decoders")
            if growth > MAX_GROWTH:
                raise TokenizerJSONError(f"its normalizers could make a text more than {MAX_GROWTH} times longer")


def _steps(component: Any) -> Iterator[dict[str, Any]]:
    """Yield a component, and those of the sequences in it."""
    waiting = [] if component is None else [component]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            raise TokenizerJSONError("a normalizer, pre-tokenizer or decoder of it is not an object")
        yield step
        for inner in ("normalizers", "pretokenizers", "decoders"):
            waiting += step[inner] if isinstance(step.get(inner), list) else []


def _growth(step: dict[str, Any], pattern: Any) -> float:
    """Return how many times longer a normalizer can make a text."""
    kind, content = step.get("type"), step.get("content")
    if kind in ("Replace", "Prepend") and isinstance(content, str):
        if kind == "Prepend":
            return 1 if len(content) <= MAX_GROWTH else math.inf
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(replaced, str) and replaced:
            return max(1, len(content) / len(replaced))
        return 1 + len(content)  # a regular expression may match nothing, between any two characters
    if kind == "Precompiled":
        return _growth_of_charsmap(step.get("precompiled_charsmap"))
    return 2 if kind in ("ByteLevel", "BertNormalizer") else 1


def _growth_of_charsmap(charsmap: Any) -> float:
    """Check the longest of the replacements, which end with a NUL byte and follow a table and its size in bytes."""
    try:
        data = base64.b64decode(charsmap, validate=True) if charsmap else b""
    except (binascii.Error, TypeError, ValueError):
        raise TokenizerJSONError("its precompiled_charsmap is not base64") from None
    start = 4 + int.from_bytes(data[:4], "little")
    if data and not 4 < start <= len(data):
        raise TokenizerJSONError("its precompiled_charsmap is damaged")
    return 1 if max(map(len, data[start:].split(b"\0"))) <= MAX_CHARSMAP_BYTES else math.inf


def _adds_tokens(post_processor: Any) -> bool:
    """ByteLevel only moves offsets; the others add tokens."""
    if not isinstance(post_processor, dict):
        return False
    steps = post_processor.get("processors")
    return any(
        isinstance(step, dict) and step.get("type") != "ByteLevel"
        for step in (steps if isinstance(steps, list) else [post_processor])
    )


def _is_count(value: Any, limit: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit
