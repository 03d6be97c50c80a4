"""Words and punctuation as ids, with only as much white space as cannot be inferred.

By default, two units (words or punctuation marks) are separated as in print: no space before a comma or after an
opening bracket, otherwise one space. Only deviations have ids of their own: JOIN where two units touch against this
rule, and any other white space, one id for each character. So a text is reproduced exactly, except for units that the
vocabulary lacks.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np

from folio.data.tokenizers.base import LearnedTokenizer, UnknownTokens, check_ids, encode_utf8
from folio.data.tokenizers.state import check_state
from folio.runtime.errors import FolioError

UNKNOWN, JOIN, SPACE = range(3)
SPECIAL_TEXTS = ("<unk>", "", " ")

# A word with its inner apostrophes (strain'd, o'er), another visible character, or a character of white space.
# Together they cover all characters except halves of surrogate pairs.
UNIT = re.compile(r"\w+(?:['’]\w+)*|[^\w\s\ud800-\udfff]|\s")  # noqa: RUF001 (both apostrophes)

# In Tiny Shakespeare an apostrophe outside a word more often touches a neighbour than a space separates the two.
TOUCHES_BOTH = frozenset("-–—/'’\"")  # noqa: RUF001
TOUCHES_LEFT = frozenset(",.;:!?…%)]}»”") | TOUCHES_BOTH
TOUCHES_RIGHT = frozenset("([{«“‘") | TOUCHES_BOTH  # noqa: RUF001

APOSTROPHES = frozenset("'’")  # noqa: RUF001
"""The only punctuation that can be inside a word."""

END_OF_UNIT = 256
"""Symbol after the bytes of a unit that is spelled out."""


class WordTokenizer(LearnedTokenizer):
    """The ids of UNKNOWN, JOIN and SPACE, then one for each of `units`.

    Raises: FolioError unless `units` are words, visible characters and white space as UNIT finds them, each once.

        >>> tokenizer = WordTokenizer.from_text("To be, or not to be.")
        >>> tokenizer.decode(tokenizer.encode("not be, or what"))
        'not be, or <unk>'
    """

    name = "word"
    spaces_of_words = "around"
    learns_from_validation = False

    def __init__(self, units: Sequence[str]) -> None:
        _check_units(units)
        self._texts = (*SPECIAL_TEXTS, *units)
        self._ids = {text: token for token, text in enumerate(self._texts) if token >= SPACE}
        # (V,) bool: is there a space on that side of the unit? Not at white space and JOIN; <unk> is like a word.
        is_printable = np.array([bool(text.strip()) for text in self._texts])
        self._space_before = is_printable & [text not in TOUCHES_LEFT for text in self._texts]
        self._space_after = is_printable & [text not in TOUCHES_RIGHT for text in self._texts]

    @staticmethod
    def find_units(text: str) -> list[str]:
        return UNIT.findall(text)

    @classmethod
    def from_counts(cls, counts: Counter[str], vocab_size: int | None) -> Self:
        """The units in descending frequency. `vocab_size` is a limit, and includes the three special ids."""
        counts = counts.copy()
        del counts[SPECIAL_TEXTS[SPACE]]
        units = sorted(counts, key=lambda unit: (-counts[unit], unit))
        return cls(units if vocab_size is None else units[: vocab_size - len(SPECIAL_TEXTS)])

    @property
    def vocab_size(self) -> int:
        return len(self._texts)

    def encode(self, text: str) -> np.ndarray:
        encode_utf8(text)  # half of a surrogate pair must not become an unknown unit, which could not be spelled
        id_of = self._ids.get
        ids = np.fromiter((id_of(match[0], UNKNOWN) for match in UNIT.finditer(text)), dtype=np.int32)
        before, after = self._space_before[ids], self._space_after[ids]
        touching = np.flatnonzero(after[:-1] & before[1:]) + 1
        by_default = np.flatnonzero((ids[1:-1] == SPACE) & after[:-2] & before[2:]) + 1
        ids[by_default] = -1
        ids = np.insert(ids, touching, JOIN)
        return ids[ids >= 0]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces(check_ids(ids, self.vocab_size, self.name).tolist(), JOIN))

    def decode_stream(self, ids: Iterable[int], after: Sequence[int] = ()) -> Iterator[str]:
        checked = (int(check_ids([token], self.vocab_size, self.name)[0]) for token in ids)
        return self._pieces(checked, after[-1] if len(after) else JOIN)

    def _pieces(self, ids: Iterable[int], previous: int) -> Iterator[str]:
        """Yield the text of each id after the default space, if any. JOIN has no text, and prevents the space."""
        for token in ids:
            has_space = self._space_after[previous] and self._space_before[token]
            yield " " + self._texts[token] if has_space else self._texts[token]
            previous = token

    def unknown(self, text: str) -> UnknownTokens:
        """Each unknown unit is spelled byte by byte, in a code made from the units of the vocabulary."""
        hidden = [match[0] for match in UNIT.finditer(text) if match[0] not in self._ids]
        spelled = np.frombuffer(encode_utf8("".join(hidden)), dtype=np.uint8)
        bits = self._symbol_bits[spelled].sum() + len(hidden) * self._symbol_bits[END_OF_UNIT]
        return UnknownTokens(len(hidden), float(bits))

    @cached_property
    def _symbol_bits(self) -> np.ndarray:
        """Code length of each byte and of END_OF_UNIT, (257,): -log2 of its add-one frequency in the units.

        Each unit counts once: an unknown word is rare, and a rare word resembles other rare words more than `the`.
        """
        units = self._texts[len(SPECIAL_TEXTS) :]
        counts = np.bincount(np.frombuffer(encode_utf8("".join(units)), dtype=np.uint8), minlength=END_OF_UNIT + 1) + 1
        counts[END_OF_UNIT] += len(units)
        bits: np.ndarray = np.log2(counts.sum()) - np.log2(counts)
        return bits

    def last_cut(self, text: str) -> int:
        """Cut before punctuation, or white space other than a space, that takes no space before it.

        It must be in the vocabulary, since an unknown unit takes a space like a word. Such a character is a unit of
        its own, so no unit extends over the cut. No JOIN stands before it in the whole text, nor in the parts. A
        SPACE before it has an id in the whole text because it is against the rule, and in the part because it is last.
        """
        return max((0, *(text.rfind(unit, 1) for unit in self._units_to_cut_before)))

    @cached_property
    def _units_to_cut_before(self) -> list[str]:
        texts = enumerate(self._texts[len(SPECIAL_TEXTS) :], len(SPECIAL_TEXTS))
        return [text for token, text in texts if not self._space_before[token] and text not in APOSTROPHES]

    def newline_ids(self) -> np.ndarray:
        return np.array([token for token, text in enumerate(self._texts) if "\n" in text], dtype=np.int64)

    def state(self) -> dict[str, Any]:
        return {"name": self.name, "units": list(self._texts[len(SPECIAL_TEXTS) :])}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_state(state, units=list)
        return cls(state["units"])


def _check_units(units: Sequence[str]) -> None:
    seen = {SPECIAL_TEXTS[SPACE]}
    for unit in units:
        if not isinstance(unit, str) or unit in seen or not UNIT.fullmatch(unit):
            raise FolioError(
                f"{str(unit)[:40]!a} among the units of a word tokenizer is repeated, or is not one word, punctuation "
                "mark or character of white space; prepare the data or train again"
            )
        seen.add(unit)
