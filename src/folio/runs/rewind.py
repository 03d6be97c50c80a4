"""A run folder taken back to its last checkpoint, from where the run goes on."""

import re
from pathlib import Path

from folio.runtime.files import remove_unfinished, write_atomically


def rewind(folder: Path, step: int) -> None:
    """Take out of samples and CSV curves what an earlier part of the run wrote after `step`: it is written again.

    A run that was killed has gone on for a while after its last checkpoint. What TensorBoard shows of that time is
    up to `folio.training.loggers.tensorboard`. Files that were half-written at the time go as well.
    """
    for file, cut in (("csv/metrics.csv", rows_until), ("samples.md", samples_until)):
        path = folder / file
        if path.is_file():
            before = path.read_bytes().decode("utf-8", "replace")
            after = cut(before, step)
            if after != before:
                write_atomically(path, after.encode())
    for place in (folder, folder / "checkpoints"):
        remove_unfinished(place)


def rows_until(text: str, step: int) -> str:
    """The header and the whole rows (step, name, value) of a CSV file up to a step."""
    header, *rows = text.splitlines(keepends=True) or [""]
    return header + "".join(row for row in rows if row.endswith("\n") and _is_until(row.partition(",")[0], step))


def samples_until(text: str, step: int) -> str:
    """The sections of samples.md up to a step. A heading stands at the beginning of a line, a sample never does."""
    for line in re.finditer(r"^\S.*\n?", text, re.MULTILINE):
        heading = re.fullmatch(r"## Step (\d+)\n", line[0])
        if heading is None or not _is_until(heading[1], step):
            return text[: line.start()]
    return text


def _is_until(number: str, step: int) -> bool:
    """Whether a number in a file, of which nobody says that Folio wrote it, is a step up to this one."""
    return number.isdecimal() and len(number) < 20 and int(number) <= step
