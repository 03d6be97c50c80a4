"""What a run says: the same lines on the terminal and in train.log."""

import logging
from pathlib import Path

from rich.console import Console

from folio.runtime.printable import printable

log = logging.getLogger("folio")
"""Lines for a person. """

console = Console(highlight=False, soft_wrap=True)
"""Standard output. The progress bar draws on it, too, so lines and bar do not overwrite each other."""


class ConsoleHandler(logging.Handler):
    """Prints messages as they are: no time, no level, no markup. The text of a model may hold anything."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(printable(self.format(record)), markup=False)


class LogFile(logging.FileHandler):
    """Does without its file where it can no longer be written, which is no reason for a run to end."""

    _has_warned = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._has_warned:
            self._has_warned = True
            console.print(f"warning: {self.baseFilename} cannot be written; its lines are here alone", markup=False)


def start_log(file: Path) -> None:
    """Print the lines of `log`, and append them to a file with their time. Replaces what an earlier call set up."""
    close_log()
    to_file = LogFile(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(ConsoleHandler())
    log.addHandler(to_file)


def close_log() -> None:
    """Let go of the file of `log`, which another run must not write into."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


def log_nothing() -> None:
    """Say nothing, in a process that is not the first of its run."""
    close_log()
    log.addHandler(logging.NullHandler())
    log.propagate = False
