r"""Check that a regular expression of unknown origin cannot take forever.

A search that backtracks tries exponentially many ways if a part that is repeated can itself match in several ways, as
in `(x+x+)+`, and n^k ways if k repeats follow each other. The patterns of tokenizers need neither: an alternative such
as `[^\r\n\p{L}\p{N}]?\p{L}+` has one or two repeats, of one character each.
"""

import re
from typing import NamedTuple

MAX_PATTERN_CHARACTERS = 10_000
MAX_REPEATS = 3
"""Limit for the unbounded repeats in one alternative. Known tokenizers have two."""
MAX_CHOICES = 8
"""Limit for the optional parts in one alternative. Known tokenizers have two."""
FEW = 10
"""Number up to which a bounded repeat, such as {1,3}, counts as bounded."""
MAX_COUNT = 1000
MAX_DEPTH = 50

BOUNDS = re.compile(r"\{(\d{0,5})(,?)(\d{0,5})\}")
GROUP = re.compile(r"\((?:\?(?:[:=!>]|<[=!]|<[A-Za-z]\w*>|[im]*(?:-[im]+)?[:)]))?")


class UncheckedPatternError(ValueError):
    """A regular expression that may take forever, or that cannot be checked."""


def check_pattern(pattern: str) -> None:
    r"""Raises: UncheckedPatternError unless every search with the pattern ends soon.

    >>> check_pattern(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    >>> check_pattern(r"(x+x+)+y")
    Traceback (most recent call last):
    folio.data.tokenizers.patterns.UncheckedPatternError: it repeats a group that can match in several ways
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise UncheckedPatternError(f"it has more than {MAX_PATTERN_CHARACTERS:,} characters")
    parser = _Parser(pattern)
    try:
        parser.alternatives(depth=0)
    except IndexError:
        raise UncheckedPatternError("it ends too early") from None
    if parser.position < len(pattern):
        raise UncheckedPatternError("it has a closing parenthesis too many")


class Ways(NamedTuple):
    """In how many ways a part of a pattern can match.

    >>> Ways(choices=1).then(Ways(repeats=1))
    Ways(choices=1, repeats=1)
    """

    choices: int = 0
    """Number of optional parts, bounded repeats and groups with alternatives, one after the other."""
    repeats: int = 0
    """Number of unbounded repeats, one after the other."""

    def then(self, other: "Ways") -> "Ways":
        return Ways(self.choices + other.choices, self.repeats + other.repeats)


class _Parser:
    """Each method reads a part of the pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def alternatives(self, depth: int) -> Ways:
        if depth > MAX_DEPTH:
            raise UncheckedPatternError(f"it is nested more than {MAX_DEPTH} levels deep")
        ways = self._sequence(depth)
        while self._next() == "|":
            self.position += 1
            other = self._sequence(depth)
            ways = Ways(max(1, ways.choices, other.choices), max(ways.repeats, other.repeats))
        return ways

    def _sequence(self, depth: int) -> Ways:
        ways = Ways()
        while self._next() not in ("", "|", ")"):
            ways = ways.then(self._item(depth))
        if ways.repeats > MAX_REPEATS or ways.choices > MAX_CHOICES:
            raise UncheckedPatternError(
                f"an alternative has more than {MAX_REPEATS} unbounded repeats or {MAX_CHOICES} optional parts"
            )
        return ways

    def _item(self, depth: int) -> Ways:
        ways = self._atom(depth)
        bounds = self._quantifier()
        if bounds is None:
            return ways
        low, high = bounds
        if ways != Ways() and high > 1:
            raise UncheckedPatternError("it repeats a group that can match in several ways")
        if self._next() in ("*", "?", "+") or BOUNDS.match(self.pattern, self.position):
            raise UncheckedPatternError("it repeats a repeat")
        if low == high:
            return ways
        return ways.then(Ways(repeats=1) if high > FEW else Ways(choices=1))

    def _atom(self, depth: int) -> Ways:
        character = self._next()
        if character == "(":
            return self._group(depth)
        if character == "[":
            self._character_class()
        elif character == "\\":
            self._escape()
        else:
            self.position += 1
        return Ways()

    def _group(self, depth: int) -> Ways:
        opening = GROUP.match(self.pattern, self.position)
        assert opening is not None
        self.position = opening.end()
        if opening[0].endswith(")"):  # flags for what follows
            return Ways()
        if opening[0] == "(" and self._next() == "?":
            raise UncheckedPatternError(f"it has an unusual group: {self.pattern[opening.start() :][:10]}")
        inside = self.alternatives(depth + 1)
        if self.pattern[self.position] != ")":
            raise UncheckedPatternError("it lacks a closing parenthesis")
        self.position += 1
        return inside

    def _character_class(self) -> None:
        """Classes can be nested, as in [[:alpha:]] and [a-z&&[^aeiou]]."""
        depth = 0
        while True:
            character = self.pattern[self.position]
            self.position += 1
            if character == "\\":
                self.position += 1
            elif character == "[":
                depth += 1
                self.position += self._next() == "^"
                self.position += self._next() == "]"  # the first one is a character
            elif character == "]":
                depth -= 1
                if depth == 0:
                    return

    def _escape(self) -> None:
        kind = self.pattern[self.position + 1]
        if kind in "123456789gkKRXO":
            raise UncheckedPatternError(f"it refers to another part or uses \\{kind}")
        self.position += 2
        if kind in "pPx" and self._next() == "{":
            self.position = self.pattern.index("}", self.position) + 1 if "}" in self.pattern[self.position :] else -1
            if self.position < 0:
                raise UncheckedPatternError("it ends too early")

    def _quantifier(self) -> tuple[int, float] | None:
        """Return the least and the largest number of repeats; None if there is no quantifier."""
        character = self._next()
        if character in ("*", "+", "?"):
            self.position += 1
            self.position += self._next() in ("?", "+")  # lazy or possessive
            return int(character == "+"), 1 if character == "?" else float("inf")
        match = BOUNDS.match(self.pattern, self.position)
        if match is None or not (match[1] or match[3]):
            return None
        self.position = match.end()
        self.position += self._next() == "?"  # a plus would repeat the repeat
        low = int(match[1] or 0)
        high = low if not match[2] else float(match[3]) if match[3] else float("inf")
        if low > MAX_COUNT or MAX_COUNT < high < float("inf"):
            raise UncheckedPatternError(f"it repeats something more than {MAX_COUNT} times")
        return low, high

    def _next(self) -> str:
        return self.pattern[self.position : self.position + 1]
