"""Messages of a run: the same lines on the terminal and in train.log."""

import logging
import sys
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.text import Text

from folio.runtime.streams import SafeStream, standard_streams
from folio.runtime.terminal import printable

log = logging.getLogger("folio")
"""Logger for messages to the user."""


class _Stream:
    """Today's sys.stdout or sys.stderr, which may be sent the escape sequences of rich: movements of the cursor."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _stream(self) -> Any:
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # while a bar is shown, rich puts itself in front

    def write(self, text: str) -> int:
        stream = self._stream()
        return int(stream.write_trusted(text) if type(stream) is SafeStream else stream.write(text))

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "rich_proxied_file":  # rich would write to that, instead of to us
            raise AttributeError(attribute)
        return getattr(self._stream(), attribute)


class SafeConsole(Console):
    """A console of rich for text of any origin: it obeys neither rich's markup nor escape sequences in what it prints.

    Only what draws itself, such as a table or a progress bar, is trusted; such a thing must make its texts printable.
    """

    def __init__(self, name: str) -> None:
        # In a notebook too it prints text: rich would make a table of HTML of each line.
        stream = cast(IO[str], _Stream(name))
        super().__init__(highlight=False, soft_wrap=True, file=stream, force_jupyter=False)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(Text(printable(it)) if isinstance(it, str) else it for it in objects), **options)


console = SafeConsole("stdout")
"""Standard output. Progress bars draw on it as well, so that messages and bars do not overwrite each other."""


PIPE_WIDTH = 10_000
"""Width of a table that goes to a file or a pipe, where a folded path could not be searched for or pasted."""


def print_table(table: RenderableType) -> None:
    """Print a table: as wide as the terminal, or without folding anything if there is none."""
    console.print(table, width=None if console.is_terminal else PIPE_WIDTH)


def in_notebook() -> bool:
    """Return whether the program runs in the kernel of a notebook, such as Jupyter's."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class ConsoleHandler(logging.Handler):
    """Prints messages without time or level."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record))


class PrintableFormatter(logging.Formatter):
    """Formats messages for a file that people show in terminals."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class LogFile(logging.FileHandler):
    """A log file that warns once if it cannot be written, and never ends the run."""

    _has_warned = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)  # opens the file for the first message
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._has_warned:
            self._has_warned = True
            console.print(f"warning: {self.baseFilename} cannot be written; its lines appear only here")


def start_log(file: Path, *, only_warnings: bool = False) -> None:
    """Print the messages of `log`, and append them to a file with their time. Replaces the file of an earlier call.

    only_warnings prints no others; the file has them all.
    """
    close_log()
    to_file = LogFile(file, encoding="utf-8", delay=True)
    to_file.setFormatter(PrintableFormatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(ConsoleHandler(logging.WARNING if only_warnings else logging.NOTSET))
    log.addHandler(to_file)

    def warn(problem: str) -> None:
        text = f"warning: {problem}; the run continues, and its messages are here"
        to_file.handle(log.makeRecord(log.name, logging.WARNING, "", 0, text, (), None))

    for stream in standard_streams():
        stream.listener = warn
        if stream.failure is not None:
            warn(stream.explain())


def close_log() -> None:
    """Close the file of `log`, so that another run does not write into it."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    for stream in standard_streams():
        stream.listener = None


def silence_log() -> None:
    """Discard all messages: only rank 0 of a run prints."""
    close_log()
    log.addHandler(logging.NullHandler())
    log.propagate = False
