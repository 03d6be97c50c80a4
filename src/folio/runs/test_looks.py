"""The record of each look at a test split, in the run folder.

A figure of a test split says how good a model is only as long as nothing was chosen by it, so each look is counted. The
file has a JSON object on each line, and is only appended to.
"""

import json
import os
from pathlib import Path
from typing import Any

from folio.runtime.files import check_output_folder, check_writable
from folio.runtime.untrusted import MIB, UntrustedFileError, parse_json, read_text

RECORD = "test.jsonl"
MAX_RECORD_BYTES = 16 * MIB


def check_recordable(folder: Path) -> None:
    """Raises: FolioError unless a look can be recorded in the folder of a run, which may be someone else's."""
    check_output_folder(folder, "RUN", f"each look at a test split is recorded in {RECORD} there, so make it writable")
    check_writable(folder)


def record_look(folder: Path, look: dict[str, Any]) -> int:
    """Append a look to the record of a run. Returns how many there are now. Raises: OSError; UntrustedFileError."""
    with (folder / RECORD).open("a", encoding="utf-8") as file:
        file.write(json.dumps(look) + "\n")  # one write, so that two processes do not mix their lines
        file.flush()
        os.fsync(file.fileno())
    return len(read_looks(folder))


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """Return the looks at the test split of a run, the latest last. One on a damaged line counts, without its figures.

    Raises: UntrustedFileError if the record is not a text; OSError.
    """
    file = folder / RECORD
    if not os.path.lexists(file):
        return []
    return [_parse(line, file) for line in read_text(file, MAX_RECORD_BYTES, errors="replace").splitlines() if line]


def _parse(line: str, file: Path) -> dict[str, Any]:
    try:
        look = parse_json(line, file)
    except UntrustedFileError:
        return {}
    return look if isinstance(look, dict) else {}
