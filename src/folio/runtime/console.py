"""Messages of a run: the same lines on the terminal and in train.log."""

import logging
import sys
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from folio.runtime.streams import SafeStream, standard_streams
from folio.runtime.terminal import printable

log = logging.getLogger("folio")
"""Logger for messages to the user."""


class _StandardOutput:
    """Today's sys.stdout, which may be sent the escape sequences of rich: cursor movements, not only colors."""

    def write(self, text: str) -> int:
        stream = sys.stdout
        return stream.write_trusted(text) if type(stream) is SafeStream else stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


# In a notebook too it prints text: rich would make a table of HTML of each line.
console = Console(highlight=False, soft_wrap=True, file=cast(IO[str], _StandardOutput()), force_jupyter=False)
"""Standard output. The progress bar draws on it as well, so that messages and bar do not overwrite each other."""


def in_notebook() -> bool:
    """Return whether the program runs in the kernel of a notebook, such as Jupyter's."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class ConsoleHandler(logging.Handler):
    """Prints messages without time, level or markup, because the text of a model may contain anything."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(printable(self.format(record)), markup=False)


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
            console.print(f"warning: {self.baseFilename} cannot be written; its lines appear only here", markup=False)


def start_log(file: Path) -> None:
    """Print the messages of `log`, and append them to a file with their time. Replaces the file of an earlier call."""
    close_log()
    to_file = LogFile(file, encoding="utf-8", delay=True)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(ConsoleHandler())
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
