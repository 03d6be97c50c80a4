"""Text for a terminal. Imports nothing slow, because error messages are printed before torch is imported."""

import difflib
import re
from typing import Any, TextIO

HIDDEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Control characters, which a terminal obeys; marks that change the direction of text; halves of surrogate pairs,
which cannot be printed at all."""


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Escape hidden characters as Python does: an escape character becomes \x1b."""
    return HIDDEN.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def did_you_mean(value: str, options: list[str]) -> str:
    """Return the end of a sentence that suggests the closest option; empty if none is close."""
    given = value.lower().replace("-", "_")
    closest = difflib.get_close_matches(given, options, n=1, cutoff=0.7)
    if not closest and len(given) >= 3:  # bf16 for bf16-mixed, and prenorm for pre
        closest = sorted(option for option in options if option.startswith(given) or given.startswith(option))
    is_clear = bool(closest) and all(option.startswith(closest[0]) for option in closest)
    return f"; did you mean {closest[0]}?" if is_clear else ""


class NumberedLines:
    """A stream that writes whole lines, each prefixed with a job number, so that parallel jobs can be told apart."""

    def __init__(self, stream: TextIO, number: int) -> None:
        self._stream = stream
        self.number = number
        self._prefix = f"[{number}] "
        self._unfinished = ""

    def write(self, text: str) -> int:
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def job_number(stream: TextIO) -> int | None:
    """Return the number that prefixes the lines of a stream; None if they have no prefix."""
    return stream.number if isinstance(stream, NumberedLines) else None
