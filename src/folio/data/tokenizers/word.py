"""Words and punctuation as ids, and only as much white space as a reader could not guess.

Between two units, words or signs, stands by default what print puts there: nothing before a comma or after an
opening bracket, else one space. Only what differs from that has ids of its own: JOIN where two units touch against
the rule, and any other white space character by character. So a text comes back exactly, but for the units that
the vocabulary lacks.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from folio.data.tokenizers.base import UnknownTokens, checked_ids, utf8_of
from folio.runtime.errors import FolioError

WORD = "word"

UNKNOWN, JOIN, SPACE = range(3)
SPECIAL_TEXTS = ("<unk>", "", " ")

# A word with its inner apostrophes (strain'd, o'er), another visible character, or a character of white space;
# together all characters but the halves of surrogate pairs.
UNIT = re.compile(r"\w+(?:['’]\w+)*|[^\w\s\ud800-\udfff]|\s")  # noqa: RUF001 (both apostrophes)

# In Tiny Shakespeare an apostrophe outside a word more often touches a neighbour than a space parts the two.
TOUCH_BOTH = frozenset("-–—/'’\"")  # noqa: RUF001
TOUCH_LEFT = frozenset(",.;:!?…%)]}»”") | TOUCH_BOTH
TOUCH_RIGHT = frozenset("([{«“‘") | TOUCH_BOTH  # noqa: RUF001

APOSTROPHES = frozenset("'’")  # noqa: RUF001
"""The only signs that can be inside a word."""

END = 256
"""The symbol after the bytes of a unit that is spelled out."""


class WordTokenizer:
    """The ids of UNKNOWN, JOIN and SPACE, then one for each of `units`.

    Raises: FolioError unless `units` are words, visible characters and white space as UNIT finds them, each once.
    """

    name = WORD

    def __init__(self, units: Sequence[str]) -> None:
        _check_units(units)
        self._texts = (*SPECIAL_TEXTS, *units)
        self._ids = {text: token for token, text in enumerate(self._texts) if token >= SPACE}
        # (V,) bool: does the unit leave a space on that side? White space and JOIN never do, <unk> does like a word.
        printable = np.array([bool(text.strip()) for text in self._texts])
        self._space_before = printable & [text not in TOUCH_LEFT for text in self._texts]
        self._space_after = printable & [text not in TOUCH_RIGHT for text in self._texts]

    @classmethod
    def of_text(cls, text: str, max_vocab_size: int | None) -> "WordTokenizer":
        """The units of `text` by falling frequency, at most so many that no more than max_vocab_size ids arise."""
        return cls.of_pieces([text], max_vocab_size)

    @classmethod
    def of_pieces(cls, pieces: Iterable[str], max_vocab_size: int | None) -> "WordTokenizer":
        """`of_text` of a text in pieces that cut no unit, of which one is held at a time."""
        return cls.of_counts(Counter(chain.from_iterable(map(UNIT.findall, pieces))), max_vocab_size)

    @classmethod
    def of_counts(cls, counts: Counter[str], max_vocab_size: int | None) -> "WordTokenizer":
        """`of_text` of a text with so many of each unit as UNIT finds them."""
        counts = counts.copy()
        del counts[SPECIAL_TEXTS[SPACE]]
        units = sorted(counts, key=lambda unit: (-counts[unit], unit))
        return cls(units if max_vocab_size is None else units[: max_vocab_size - len(SPECIAL_TEXTS)])

    @property
    def vocab_size(self) -> int:
        return len(self._texts)

    @property
    def end_of_text(self) -> None:
        return None

    def encode(self, text: str) -> np.ndarray:
        utf8_of(text)  # half of a surrogate pair must not become an unknown unit, which could not be spelled
        id_of = self._ids.get
        ids = np.fromiter((id_of(match[0], UNKNOWN) for match in UNIT.finditer(text)), dtype=np.int32)
        before, after = self._space_before[ids], self._space_after[ids]
        touching = np.flatnonzero(after[:-1] & before[1:]) + 1
        by_default = np.flatnonzero((ids[1:-1] == SPACE) & after[:-2] & before[2:]) + 1
        ids[by_default] = -1
        ids = np.insert(ids, touching, JOIN)
        return ids[ids >= 0]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces(checked_ids(ids, self.vocab_size, self.name).tolist(), JOIN))

    def decode_stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        checked = (int(checked_ids([token], self.vocab_size, self.name)[0]) for token in ids)
        return self._pieces(checked, after[-1] if len(after) else JOIN)

    def _pieces(self, ids: Iterable[int], previous: int) -> Iterator[str]:
        """The text of each id with the default space before it; JOIN has none, and keeps the default away."""
        for token in ids:
            if token != JOIN:
                has_space = self._space_after[previous] and self._space_before[token]
                yield " " + self._texts[token] if has_space else self._texts[token]
            previous = token

    def unknown(self, text: str) -> UnknownTokens:
        """Each unknown unit is spelled byte by byte with an END, in a code made for the units of the vocabulary."""
        hidden = [match[0] for match in UNIT.finditer(text) if match[0] not in self._ids]
        spelled = np.frombuffer(utf8_of("".join(hidden)), dtype=np.uint8)
        bits = self._symbol_bits[spelled].sum() + len(hidden) * self._symbol_bits[END]
        return UnknownTokens(len(hidden), float(bits))

    @cached_property
    def _symbol_bits(self) -> np.ndarray:
        """(257,): -log2 of the share that each byte and END has in the units, each spelled once, plus one each.

        Each once, because what is unknown is rare, and a rare word looks more like another than like `the`.
        """
        units = self._texts[len(SPECIAL_TEXTS) :]
        counts = np.bincount(np.frombuffer(utf8_of("".join(units)), dtype=np.uint8), minlength=END + 1) + 1
        counts[END] += len(units)
        bits: np.ndarray = np.log2(counts.sum()) - np.log2(counts)
        return bits

    def last_cut(self, text: str) -> int:
        """In front of a sign, or of white space other than a space, before which the rule wants no space.

        It must be one that the vocabulary has: the unknown leave a space like words. Such a character is a unit of
        its own, so no unit reaches over the cut. No JOIN stands before it in the whole, and none in the parts. A
        SPACE before it has an id in the whole, because it is against the rule, and in the part, because it is last.
        """
        return max((0, *(text.rfind(sign, 1) for sign in self._signs_to_cut_at)))

    @cached_property
    def _signs_to_cut_at(self) -> list[str]:
        texts = enumerate(self._texts[len(SPECIAL_TEXTS) :], len(SPECIAL_TEXTS))
        return [text for token, text in texts if not self._space_before[token] and text not in APOSTROPHES]

    def newline_ids(self) -> np.ndarray:
        return np.array([token for token, text in enumerate(self._texts) if "\n" in text], dtype=np.int64)

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "units": list(self._texts[len(SPECIAL_TEXTS) :])}


def _check_units(units: Sequence[str]) -> None:
    seen = {SPECIAL_TEXTS[SPACE]}
    for unit in units:
        if not isinstance(unit, str) or unit in seen or not UNIT.fullmatch(unit):
            raise FolioError(
                f"{str(unit)[:40]!a} among the units of a word tokenizer is there twice, or is not one word, sign or "
                "character of white space; prepare the data or train again"
            )
        seen.add(unit)
