"""What jobs say that run side by side, told apart."""

from typing import Any, TextIO


class NumberedLines:
    """A stream of whole lines, each with the number of its job: those of jobs side by side are told apart."""

    def __init__(self, stream: TextIO, number: int) -> None:
        self._stream = stream
        self.number = number
        self._head = f"[{number}] "
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._head}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def number_of_job(stream: TextIO) -> int | None:
    """The number before each of its lines; None where it has none."""
    return stream.number if isinstance(stream, NumberedLines) else None
