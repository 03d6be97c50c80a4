"""Rewind a run folder to its last checkpoint before the run resumes there."""

import re
from pathlib import Path

from folio.runtime.files import remove_unfinished, write_atomically
from folio.runtime.untrusted import MIB, read_text

MAX_HISTORY_BYTES = 512 * MIB
"""Limit for the samples and the metrics of a run. A million log lines with four metrics have 160 MB."""


def rewind(folder: Path, step: int) -> None:
    """Remove samples and CSV rows after `step`, because the resumed run writes them again; and unfinished files.

    A killed run has trained on for a while after its last checkpoint. `folio.training.loggers.tensorboard` hides what
    TensorBoard has of that time.
    """
    for name, truncate in (("csv/metrics.csv", truncate_rows), ("samples.md", truncate_samples)):
        path = folder / name
        if path.exists():
            before = read_text(path, MAX_HISTORY_BYTES, "replace")
            after = truncate(before, step)
            if after != before:
                write_atomically(path, after.encode())
    for place in (folder, folder / "checkpoints"):
        remove_unfinished(place)


def truncate_rows(text: str, step: int) -> str:
    """Return the header and the complete rows (step, name, value) of a CSV file up to a step."""
    header, *rows = text.splitlines(keepends=True) or [""]
    return header + "".join(row for row in rows if row.endswith("\n") and _is_up_to(row.partition(",")[0], step))


def truncate_samples(text: str, step: int) -> str:
    """Return the sections of samples.md up to a step. Headings are not indented, samples always are."""
    for line in re.finditer(r"^\S.*\n?", text, re.MULTILINE):
        heading = re.fullmatch(r"## Step (\d+)\n", line[0])
        if heading is None or not _is_up_to(heading[1], step):
            return text[: line.start()]
    return text


def _is_up_to(number: str, step: int) -> bool:
    """Return whether a word is a step up to `step`. The file may have been edited, so the word can be anything."""
    return number.isdecimal() and len(number) < 20 and int(number) <= step
