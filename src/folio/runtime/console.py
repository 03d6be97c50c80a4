"""Messages of a run: the same lines on the terminal and in train.log."""

import logging
from pathlib import Path

from rich.console import Console

from folio.runtime.terminal import printable

log = logging.getLogger("folio")
"""Logger for messages to the user."""

console = Console(highlight=False, soft_wrap=True)
"""Standard output. The progress bar draws on it as well, so that messages and bar do not overwrite each other."""


class ConsoleHandler(logging.Handler):
    """Prints messages without time, level or markup, because the text of a model may contain anything."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(printable(self.format(record)), markup=False)


class LogFile(logging.FileHandler):
    """A log file that warns once if it cannot be written, and never ends the run."""

    _has_warned = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._has_warned:
            self._has_warned = True
            console.print(f"warning: {self.baseFilename} cannot be written; its lines appear only here", markup=False)


def start_log(file: Path) -> None:
    """Print the messages of `log`, and append them to a file with their time. Replaces the file of an earlier call."""
    close_log()
    to_file = LogFile(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(ConsoleHandler())
    log.addHandler(to_file)


def close_log() -> None:
    """Close the file of `log`, so that another run does not write into it."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


def silence_log() -> None:
    """Discard all messages: only rank 0 of a run prints."""
    close_log()
    log.addHandler(logging.NullHandler())
    log.propagate = False
