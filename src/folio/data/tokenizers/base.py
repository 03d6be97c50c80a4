"""What tokenizers share: the checks of text and ids, and the base of those that lose nothing."""

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from folio.runtime.errors import FolioError

FIRST_WINDOW = 1024
"""Characters at the end of a text that `last_end` looks at before it looks at more."""


@dataclass(frozen=True)
class UnknownTokens:
    """What the ids of a text leave out: how many of them hide something, and the bits that spelling it out takes."""

    n_tokens: int = 0
    spelling_bits: float = 0.0

    def __add__(self, other: "UnknownTokens") -> "UnknownTokens":
        return UnknownTokens(self.n_tokens + other.n_tokens, self.spelling_bits + other.spelling_bits)


class LosslessTokenizer(ABC):
    """A tokenizer each of whose ids stands for bytes, which joined are the UTF-8 of the text."""

    @property
    def end_of_text(self) -> int | None:
        return None

    @property
    @abstractmethod
    def vocab_size(self) -> int: ...

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The UTF-8 bytes, exactly those that were encoded. Raises: FolioError for an id out of range."""

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        """A character whose bytes are spread over ids waits for the last of them; `after` makes no difference."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            if piece := decoder.decode(self.decode_bytes([token])):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def unknown(self, text: str) -> UnknownTokens:
        return UnknownTokens()

    def last_cut(self, text: str) -> int:
        return len(text)  # an id for each byte or character, whatever stands beside it

    def newline_ids(self) -> np.ndarray:
        return self._newline_ids

    @cached_property
    def _newline_ids(self) -> np.ndarray:
        # Once: training asks for both splits, and the way through a large vocabulary takes some tenths of a second.
        return np.array([token for token in range(self.vocab_size) if b"\n" in self.decode_bytes([token])], np.int64)


def checked_ids(ids: Sequence[int], vocab_size: int, name: str) -> np.ndarray:
    """The ids as (N,) int64. Raises: FolioError for one that tokenizer `name` does not have."""
    array = np.asarray(ids, dtype=np.int64)
    outside = array[(array < 0) | (array >= vocab_size)]
    if outside.size:
        raise FolioError(
            f"token id {outside[0]} is outside the vocabulary of {name}, 0 to {vocab_size - 1}; "
            "use the tokenizer that the ids were made with"
        )
    return array


def utf8_of(text: str) -> bytes:
    """Raises: FolioError where the text holds half of a surrogate pair, as from bytes read with a wrong encoding."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FolioError(
            f"the text holds {text[error.start]!r} at position {error.start}, half of a surrogate pair, "
            "which has no UTF-8 form; was it read with the wrong encoding?"
        ) from error


def last_end(pattern: re.Pattern[str], text: str) -> int:
    """Where the last match of `pattern` ends; 0 if there is none. Looks at the end first, where it mostly is."""
    window = FIRST_WINDOW
    while True:
        first = max(len(text) - window, 0)
        end = max((match.end() for match in pattern.finditer(text, first)), default=0)
        if end or first == 0:
            return end
        window *= 8
