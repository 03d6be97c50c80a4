"""Text to token ids and back, by the tokenizer of one's choice.

A tokenizer gives its whole state as plain data, so that a checkpoint that holds the state can write text
without network, data folder or cache.
"""

import base64
import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from folio.data.assets import fetch
from folio.data.tokenizers.base import UnknownTokens
from folio.data.tokenizers.byte import BYTE, ByteTokenizer
from folio.data.tokenizers.char import CHAR, CharTokenizer
from folio.data.tokenizers.rank_files import ENCODINGS
from folio.data.tokenizers.tiktoken_bpe import TiktokenTokenizer
from folio.data.tokenizers.word import SPECIAL_TEXTS, WORD, WordTokenizer
from folio.runtime.errors import FolioError

# Known before any file is read, so that a model can be sized and checked first. The others depend on the text.
VOCAB_SIZES: dict[str, int] = {
    **{name: encoding.vocab_size for name, encoding in ENCODINGS.items()},
    BYTE: ByteTokenizer.vocab_size,
}
TOKENIZERS: tuple[str, ...] = (*VOCAB_SIZES, CHAR, WORD)


class Tokenizer(Protocol):
    """What the rest of Folio asks of a tokenizer. Ids run from 0 to vocab_size - 1."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_of_text(self) -> int | None:
        """The id that stands between documents and is never part of a text; None where there is none."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Token ids, shape (N,), integers. Every character counts as ordinary text.

        Raises: FolioError naming what this tokenizer cannot encode and where it stands.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text; where the ids cut a UTF-8 sequence, U+FFFD. Raises: FolioError for an id out of range."""
        ...

    def decode_stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """Text of ids as they come, which go on from the ids `after` of a whole text.

        The pieces together are what `decode` of all ids has after the text of `after`.
        """
        ...

    def unknown(self, text: str) -> UnknownTokens:
        """What `encode` leaves out of this text: nothing, but for tokenizers with an id for the unknown."""
        ...

    def last_cut(self, text: str) -> int:
        """The last place where `text` can be cut, whatever may follow it; 0 if there is none.

        The ids of what lies before the place, and then those of what lies behind it, are the ids of the whole; what
        is unknown in them adds up to what is unknown in the whole.
        """
        ...

    def newline_ids(self) -> np.ndarray:
        """The ids whose text contains a line feed: (N,) int64, ascending."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain strings, lists of them and bytes, from which `load_tokenizer` makes an equal tokenizer."""
        ...


@dataclass(frozen=True)
class TokenizerChoice:
    """Which tokenizer to prepare a corpus with. Raises: FolioError for a name that is not one of TOKENIZERS."""

    name: str
    max_vocab_size: int | None = None
    """How many ids a word tokenizer may have; None: as many as there are words."""
    given: Tokenizer | None = None
    """One that was made already, for several corpora together; else a text is what `char` and `word` learn from."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        assert self.max_vocab_size is None or (self.name == WORD and self.max_vocab_size > len(SPECIAL_TEXTS))

    @property
    def folder_name(self) -> str:
        """word-8192, or the name alone; with a digest where the tokenizer was given."""
        name = self.name if self.max_vocab_size is None else f"{self.name}-{self.max_vocab_size}"
        return name if self.given is None else f"{name}-{fingerprint_of(self.given)[:8]}"

    @property
    def learns(self) -> bool:
        """Whether it depends on the text."""
        return self.given is None and self.name in (CHAR, WORD)

    def allows(self, tokenizer: Tokenizer) -> bool:
        """Whether it can have been built by this choice."""
        fits = self.max_vocab_size is None or tokenizer.vocab_size <= self.max_vocab_size
        is_given = self.given is None or fingerprint_of(self.given) == fingerprint_of(tokenizer)
        return tokenizer.name == self.name and fits and is_given


def build_tokenizer(choice: TokenizerChoice, train: Iterable[str], val: Iterable[str], assets_dir: Path) -> Tokenizer:
    """The tokenizer for a text in two splits, each in pieces that cut no word; not all tokenizers look at them.

    `word` learns from the training split alone; `char` takes the characters of both, as nanoGPT does.

    Raises: FolioError for an empty text with `char`, or a rank file that cannot be had.
    """
    if choice.given is not None:
        return choice.given
    if choice.name == CHAR:
        return CharTokenizer("".join(sorted(set[str]().union(*chain(train, val)))))
    if choice.name == WORD:
        return WordTokenizer.of_pieces(train, choice.max_vocab_size)
    if choice.name == BYTE:
        return ByteTokenizer()
    return TiktokenTokenizer(choice.name, fetch(ENCODINGS[choice.name].rank_file, assets_dir).read_bytes())


def load_tokenizer(state: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `state()` this is. Raises: FolioError if the state is unknown or damaged."""
    match dict(state):
        case {"name": "byte", **rest} if not rest:
            return ByteTokenizer()
        case {"name": "char", "characters": str(characters), **rest} if not rest:
            return CharTokenizer(characters)
        case {"name": "word", "units": list(units), **rest} if not rest:
            return WordTokenizer(units)
        case {"name": str(name), "rank_file": bytes(rank_file), **rest} if name in ENCODINGS and not rest:
            return TiktokenTokenizer(name, rank_file)
    raise FolioError(
        f"tokenizer state with name={state.get('name')!r} and keys {sorted(map(str, state))} is not one that "
        f"this version of Folio writes (tokenizers: {', '.join(TOKENIZERS)}); prepare the data or train again"
    )


def line_breaks(tokenizer: Tokenizer) -> np.ndarray:
    """(N,) int64: the ids at which a line ends, those of newlines and that of the end of a document."""
    newlines = tokenizer.newline_ids()
    return newlines if tokenizer.end_of_text is None else np.append(newlines, tokenizer.end_of_text)


def _check_name(name: str) -> None:
    """Raises: FolioError with the nearest known name."""
    if name not in TOKENIZERS:
        near = difflib.get_close_matches(name, TOKENIZERS, n=1)
        did_you_mean = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(TOKENIZERS)}"
        raise FolioError(f"tokenizer={name} is unknown; {did_you_mean}")


def state_to_json(state: Mapping[str, Any]) -> bytes:
    """The same state, the same bytes: this is what a fingerprint is taken of. Bytes values become base64."""
    plain = {
        key: {"base64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value
        for key, value in state.items()
    }
    return json.dumps(plain, sort_keys=True).encode("ascii")


def fingerprint_of(tokenizer: Tokenizer) -> str:
    """The fingerprint of the tokenizer's state as a file."""
    return fingerprint(state_to_json(tokenizer.state()))


def fingerprint(state: bytes) -> str:
    """The sha256 of a tokenizer's file."""
    return hashlib.sha256(state).hexdigest()


def state_from_json(data: bytes) -> dict[str, Any]:
    """Inverse of `state_to_json`. Raises ValueError if `data` is not such a JSON object."""
    try:
        return {
            key: base64.b64decode(value["base64"], validate=True) if isinstance(value, dict) else value
            for key, value in json.loads(data).items()
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"not a tokenizer state: {error}") from error
