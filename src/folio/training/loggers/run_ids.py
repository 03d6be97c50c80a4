"""The ids by which the services of loggers know a run, so that a resumed run continues there."""

import re
from pathlib import Path

from folio.runtime.console import log
from folio.runtime.files import write_json
from folio.runtime.untrusted import UntrustedFileError, read_json_object

FILE = "loggers.json"
"""File in the run folder: ids by the name of the logger's option."""


def read_run_id(folder: Path, logger: str, pattern: str) -> str | None:
    """Return the id of a run that is resumed; None, with a warning, if the folder holds none of this form."""
    try:
        run_id = read_json_object(folder / FILE).get(logger)
    except FileNotFoundError:
        run_id = None
    except (OSError, UntrustedFileError) as error:
        log.warning(f"warning: {error}; logger.{logger} logs to a new run")
        return None
    if isinstance(run_id, str) and re.fullmatch(pattern, run_id):
        return run_id
    log.warning(f"warning: {folder / FILE} has no id of an earlier part; logger.{logger} logs to a new run")
    return None


def write_run_id(folder: Path, logger: str, run_id: str) -> None:
    """Store an id beside those of the other loggers."""
    try:
        ids = read_json_object(folder / FILE)
    except (OSError, UntrustedFileError):
        ids = {}
    write_json(folder / FILE, ids | {logger: run_id})
