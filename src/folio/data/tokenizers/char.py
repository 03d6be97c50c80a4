"""The characters of a text as ids."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np

from folio.data.tokenizers.base import LearnedTokenizer, LosslessTokenizer, check_ids
from folio.data.tokenizers.state import check_state
from folio.runtime.errors import FolioError


class CharTokenizer(LosslessTokenizer, LearnedTokenizer):
    """One id for each character (Unicode code point), in the order of their code points.

    The characters are those of both splits, as in nanoGPT.

    Raises: FolioError unless `characters` is a non-empty ascending string without repetition.

        >>> tokenizer = CharTokenizer.from_text("to be")
        >>> tokenizer.encode("bet").tolist(), tokenizer.decode([4, 3])
        ([1, 2, 4], 'to')
    """

    name = "char"
    learns_from_validation = True

    def __init__(self, characters: str) -> None:
        if not characters or any(a >= b for a, b in pairwise(characters)):
            raise FolioError(
                "the characters of a char tokenizer must be at least one, ascending, each once, "
                f"got {characters[:20]!a}; prepare the data or train again"
            )
        self._characters = characters
        self._code_points = _code_points(characters)
        # From code point to id; -1 if there is none. One slot more than the highest character needs.
        self._ids = np.full(int(self._code_points[-1]) + 2, -1, dtype=np.int32)
        self._ids[self._code_points] = np.arange(len(characters), dtype=np.int32)

    @staticmethod
    def find_units(text: str) -> set[str]:
        return set(text)  # how often each occurs makes no difference

    @classmethod
    def from_counts(cls, counts: Counter[str], vocab_size: int | None) -> Self:
        return cls("".join(sorted(counts)))

    @property
    def vocab_size(self) -> int:
        return len(self._characters)

    def encode(self, text: str) -> np.ndarray:
        ids: np.ndarray = self._ids.take(_code_points(text), mode="clip")
        if ids.size and ids.min() < 0:
            raise FolioError(self._describe_missing(text, np.flatnonzero(ids < 0)))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        code_points: bytes = self._code_points[check_ids(ids, self.vocab_size, self.name)].tobytes()
        return code_points.decode("utf-32-le")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.decode(ids).encode("utf-8")

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "characters": self._characters}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_state(state, characters=str)
        return cls(state["characters"])

    def _describe_missing(self, text: str, positions: np.ndarray) -> str:
        first: dict[str, int] = {}
        for position in positions.tolist():
            first.setdefault(text[position], position)
            if len(first) == 5:
                break
        shown = ", ".join(f"{char!r} (U+{ord(char):04X}) at position {at}" for char, at in first.items())
        return (
            f"the char tokenizer has no id for {shown}; it knows the {self.vocab_size} characters of its "
            "training text; remove those from the text, or train with another tokenizer"
        )


def _code_points(text: str) -> np.ndarray:
    """Return (N,) uint32. A lone surrogate, from a command line of broken UTF-8, passes and is found missing."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
