"""Standard output and error that never raise: what cannot be printed must not stop a run from being saved.

With `| tee log` the reader of a pipe goes away at Ctrl-C; a terminal vanishes with its ssh connection; the disk that
keeps the output fills up; an encoding lacks a character. Imports nothing slow.
"""

import errno
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from folio.runtime.terminal import HIDDEN

_COLOR = r"[0-79]|[34][0-79]|9[0-7]|10[0-7]|[34]8[;:]5[;:]\d{1,3}|[34]8[;:]2(?:[;:]\d{1,3}){3}"
COLORS = re.compile(rf"\x1b\[(?:(?:{_COLOR})[;:]?)*m")
"""Escape sequences that a terminal may be sent: they set colors and weights, and hide nothing."""

ERASE_LINE = b"\r\x1b[2K"

Listener = Callable[[str], None]


class SafeStream:
    """A text stream that absorbs every failure to write, and tells its listener about the first.

    After a failure the file descriptor leads to /dev/null, so that neither C libraries nor Python's flush at exit fail
    later. Escape sequences other than colors are written as text, whatever they came from, also into a pipe: what
    reads it, such as tee, may show them on a terminal.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream = stream
        self.name = name
        self.failure: OSError | ValueError | None = None
        """The first failure to write."""
        self.listener: Listener | None = None
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text, without what a terminal would obey."""
        return self.write_trusted(sanitize(text))

    def write_trusted(self, text: str) -> int:
        """Write text of our own, such as the movements of the cursor that a progress bar makes."""
        if self.failure is None:
            self._attempt(lambda: self.stream.write(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.failure is None:
            self._attempt(self.stream.flush)

    def isatty(self) -> bool:
        try:
            return self.failure is None and self.stream.isatty()
        except (OSError, ValueError):
            return False

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            try:
                action()
            except BlockingIOError:  # a pipe that its reader made non-blocking, and that is full
                os.set_blocking(self.stream.fileno(), True)
                self.stream.flush()
        except (OSError, ValueError) as error:  # ValueError: closed by the program
            self.fail(error)

    def fail(self, error: OSError | ValueError) -> None:
        """Send everything from now on to /dev/null."""
        self.failure = error
        with suppress(OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.stream.fileno())
            os.close(devnull)
        if self.listener is not None:
            with suppress(Exception):
                self.listener(self.explain())

    def explain(self) -> str:
        """Return what failed, as the start of a sentence."""
        reason = getattr(self.failure, "strerror", None) or str(self.failure)
        return f"{self.name} cannot be written ({reason})"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def sanitize(text: str) -> str:
    r"""Escape what a terminal would obey, except line ends and colors: an escape character becomes \x1b."""
    if not HIDDEN.search(text):
        return text
    parts, end = [], 0
    for color in COLORS.finditer(text):
        parts += [_escape(text[end : color.start()]), color[0]]
        end = color.end()
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    return HIDDEN.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    """Keep line ends and tabs. A carriage return alone would let a text overwrite its line."""
    is_line_end = match[0] in "\n\t" or (match[0] == "\r" and match.string[match.end() :][:1] == "\n")
    return match[0] if is_line_end else ascii(match[0])[1:-1]


def guard_standard_streams() -> None:
    """Replace sys.stdout and sys.stderr by streams that never raise. Calling it again changes nothing.

    A closed stream (`>&-`) is opened as /dev/null first: otherwise the next file that the program opens would get its
    number, and whatever a library prints would go into that file.
    """
    closed = [descriptor for descriptor in range(3) if not _is_open(descriptor)]
    for descriptor in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        os.set_inheritable(descriptor, True)
    for descriptor, name, label in ((1, "stdout", "standard output"), (2, "stderr", "standard error")):
        stream = getattr(sys, name)
        if isinstance(stream, SafeStream):
            continue
        if stream is None:
            stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (open to the end)
        guarded = SafeStream(stream, label)
        if descriptor in closed:
            guarded.failure = OSError(errno.EBADF, "it is closed")
        setattr(sys, name, guarded)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def standard_streams() -> list[SafeStream]:
    """Return standard output and error, if they are guarded."""
    return [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, SafeStream)]


def output_is_gone() -> bool:
    """Return whether no one reads standard output any more, so that a program that only prints can end."""
    return isinstance(sys.stdout, SafeStream) and sys.stdout.failure is not None


def output_failure() -> str | None:
    """Return why output was lost that someone wanted to read; None if none was."""
    if not isinstance(sys.stdout, SafeStream) or sys.stdout.failure is None:
        return None
    unwanted = getattr(sys.stdout.failure, "errno", None) in (errno.EPIPE, errno.EBADF)
    return None if unwanted else sys.stdout.explain()


def write_to_stderr(message: bytes) -> None:
    """Write to standard error from a signal handler: not through sys.stderr, which the signal may have interrupted.

    On a terminal the message takes the line of a progress bar, which is then drawn below it.
    """
    with suppress(OSError):
        os.write(2, ERASE_LINE + message if os.isatty(2) else message)
