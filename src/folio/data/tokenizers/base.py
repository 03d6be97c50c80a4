"""The interface of a tokenizer, and the parts that several tokenizers share."""

import codecs
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from folio.runtime.errors import FolioError

WHITE_SPACE = re.compile(r"(?=\s)")

FIRST_SEARCH_WINDOW = 1024
"""Number of characters at the end of a text that `last_match_end` searches first."""


@dataclass(frozen=True)
class UnknownTokens:
    """The part of a text that its ids leave out.

    `n_tokens` ids stand for something that the vocabulary lacks; spelling it out takes `spelling_bits` bits, which are
    infinite if the ids say too little of the text to spell out the rest.

        >>> UnknownTokens(1, 8.0) + UnknownTokens(1, 16.0)
        UnknownTokens(n_tokens=2, spelling_bits=24.0)
    """

    n_tokens: int = 0
    spelling_bits: float = 0.0

    def __add__(self, other: "UnknownTokens") -> "UnknownTokens":
        return UnknownTokens(self.n_tokens + other.n_tokens, self.spelling_bits + other.spelling_bits)


class Tokenizer(ABC):
    """Text to token ids and back. Ids run from 0 to vocab_size - 1.

    A tokenizer whose vocabulary is fixed overrides `create`; one that learns it from the text is a `LearnedTokenizer`.
    """

    name: str

    spaces_of_words: Literal["none", "before", "around"] = "none"
    """Spaces that have no token of their own beside a word: none, the one before it (" be"), or those around it."""

    @classmethod
    def create(cls, name: str, assets_dir: Path) -> Self:
        """Return the tokenizer with this name. Files that it needs are kept in `assets_dir`."""
        raise NotImplementedError

    @classmethod
    def known_vocab_size(cls, name: str) -> int | None:
        """Return the vocabulary size if it does not depend on a text, so that a model can be sized without one."""
        return None

    @property
    @abstractmethod
    def vocab_size(self) -> int: ...

    @property
    def end_of_text(self) -> int | None:
        """Id that separates documents and is never part of a text; None if there is none."""
        return None

    @property
    def source_sha256(self) -> str | None:
        """sha256 of the file that the tokenizer was read from; None if it was not read from a file."""
        return None

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the token ids: (N,) integers. Special tokens in the text are treated as ordinary text.

        Raises: FolioError that names what this tokenizer cannot encode, and its position.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text, with U+FFFD where the ids cut a UTF-8 sequence.

        Raises: FolioError for an id out of range.
        """

    @abstractmethod
    def decode_stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """Yield the text that each id adds, as the ids arrive. They continue a text whose ids are `after`.

        There is one piece for each id, empty if the id completes no character, and perhaps a last one for what is
        incomplete at the end. Together they are what `decode` of all ids gives after the text of `after`.
        """

    def unknown(self, text: str) -> UnknownTokens:
        """Return what `encode` leaves out of this text: nothing, unless there is an id for unknown text."""
        return UnknownTokens()

    def encode_with_unknown(self, text: str) -> tuple[np.ndarray, UnknownTokens]:
        """Return the ids of a text, and what they leave out."""
        return self.encode(text), self.unknown(text)

    @abstractmethod
    def last_cut(self, text: str) -> int:
        """Return the last position at which `text` can be cut, whatever may follow it; 0 if there is none.

        The ids of the two parts, one after the other, are the ids of the whole, and their unknown tokens add up.
        """

    @abstractmethod
    def newline_ids(self) -> np.ndarray:
        """Return the ids whose text contains a line feed: (N,) int64, ascending."""

    def line_break_ids(self) -> np.ndarray:
        """Return the ids at which a line ends, (N,) int64: those of newlines and of the end of a document."""
        newlines = self.newline_ids()
        return newlines if self.end_of_text is None else np.append(newlines, self.end_of_text)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that `from_state` needs as plain strings, lists of strings and bytes.

        A checkpoint holds it, so generating text needs no network, data folder or cache.
        """

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return an equal tokenizer. Raises: FolioError for a damaged state."""


class LearnedTokenizer(Tokenizer):
    """A tokenizer whose vocabulary is counted in the text: units, and how often each occurs."""

    learns_from_validation: ClassVar[bool]
    """Whether the units of the validation split are counted too."""
    has_end_of_text: ClassVar[bool] = False
    """Whether there is an id between documents, so that no text between them is counted."""

    @staticmethod
    @abstractmethod
    def find_units(text: str) -> Iterable[str]:
        """Return the units of a text, to be counted."""

    @staticmethod
    def last_cut_for_units(text: str) -> int:
        """Return the last position at which `text` can be cut without changing its units, or 0."""
        return last_white_space(text)

    @classmethod
    @abstractmethod
    def from_counts(cls, counts: Counter[str], vocab_size: int | None) -> Self:
        """Return the tokenizer of a text with these units; `vocab_size` is the size that was asked for.

        Raises: FolioError if they cannot give such a vocabulary.
        """

    @classmethod
    def from_text(cls, text: str, vocab_size: int | None = None) -> Self:
        """Return the tokenizer of a text that is in memory."""
        return cls.from_counts(Counter(cls.find_units(text)), vocab_size)


class LosslessTokenizer(Tokenizer):
    """A tokenizer whose ids stand for bytes that, joined, are the UTF-8 of the text."""

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the UTF-8 bytes, exactly those that were encoded. Raises: FolioError for an id out of range."""

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """A character whose bytes are spread over several ids appears with the last of them. `after` is ignored."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            yield decoder.decode(self.decode_bytes([token]))
        if rest := decoder.decode(b"", final=True):
            yield rest

    def last_cut(self, text: str) -> int:
        return len(text)  # one id for each byte or character, whatever its neighbours are

    def newline_ids(self) -> np.ndarray:
        return self._newline_ids

    @cached_property
    def _newline_ids(self) -> np.ndarray:
        # Cached: training asks for both splits, and decoding a large vocabulary takes some tenths of a second.
        return np.array([token for token in range(self.vocab_size) if b"\n" in self.decode_bytes([token])], np.int64)


def check_ids(ids: Sequence[int], vocab_size: int, name: str) -> np.ndarray:
    """Return the ids as (N,) int64. Raises: FolioError for one that tokenizer `name` does not have."""
    array = np.asarray(ids, dtype=np.int64)
    outside = array[(array < 0) | (array >= vocab_size)]
    if outside.size:
        raise FolioError(
            f"token id {outside[0]} is outside the vocabulary of {name}, 0 to {vocab_size - 1}; "
            "use the tokenizer that the ids were made with"
        )
    return array


def encode_utf8(text: str) -> bytes:
    """Return the UTF-8 bytes.

    Raises: FolioError if the text holds half of a surrogate pair, as bytes that were read with a wrong encoding do.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FolioError(
            f"the text holds {text[error.start]!r} at position {error.start}, half of a surrogate pair, "
            "which has no UTF-8 form; was it read with the wrong encoding?"
        ) from error


def last_match_end(pattern: re.Pattern[str], text: str) -> int:
    """Return where the last match of `pattern` ends, or 0. Searches the end of the text first, where it usually is."""
    window = FIRST_SEARCH_WINDOW
    while True:
        first = max(len(text) - window, 0)
        end = max((match.end() for match in pattern.finditer(text, first)), default=0)
        if end or first == 0:
            return end
        window *= 8


def last_white_space(text: str) -> int:
    """Return the position of the last white space, where no word is cut."""
    return last_match_end(WHITE_SPACE, text)
