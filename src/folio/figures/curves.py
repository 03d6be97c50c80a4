"""Read the scalars that a run has logged, from TensorBoard's files or the CSV file. Imports no torch."""

import csv
import io
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from folio.runtime.errors import FolioError
from folio.runtime.untrusted import MIB, open_regular, refuse, shown

MAX_RECORD_BYTES = 64 * MIB
"""Limit for one event. A figure, the largest of ours, has less than one megabyte."""

MAX_CSV_BYTES = 512 * MIB
"""Limit for metrics.csv. A million log lines with four metrics have 160 MB."""

MAX_STEP = 2**53
"""Limit for a step: beyond it a float, as which charts draw it, skips numbers."""


@dataclass(frozen=True)
class Curve:
    """One scalar over the steps of a run, which ascend; one value per step."""

    steps: list[int]
    values: list[float]

    @classmethod
    def of_points(cls, points: Iterable[tuple[int, float]]) -> "Curve":
        """Build a curve from (step, value) as logged. A resumed run may log a step twice: the later one counts."""
        by_step = dict(points)
        steps = sorted(by_step)
        return cls(steps, [by_step[step] for step in steps])


def read_curves(run: Path) -> dict[str, Curve]:
    """Read all scalars of a run folder by their tag. Raises: FolioError if there are none, or they are damaged."""
    try:
        curves = _from_events(run / "tensorboard") or _from_csv(run / "csv" / "metrics.csv")
    except OSError as error:
        raise FolioError(f"{error.filename or run}: {error.strerror}; give another run, or restore the file") from None
    if not curves:
        raise FolioError(f"{run} has logged no curves; they need a run with logger=tensorboard or logger=csv")
    return curves


def _from_events(folder: Path) -> dict[str, Curve]:
    if not folder.is_dir():
        return {}
    for file in sorted(folder.iterdir()):
        if "tfevents" in file.name:  # what TensorBoard's reader looks for
            _check_event_file(file)
    # 0 keeps all; 1 keeps the last, since images would fill the memory.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    try:
        events.Reload()
    except (DecodeError, ValueError, OverflowError) as error:
        refuse(folder, f"holds damaged events ({shown(error)})", "give another run, or move that folder away")
    return {
        tag: Curve.of_points((_checked_step(scalar.step, folder), scalar.value) for scalar in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
    }


def _check_event_file(path: Path) -> None:
    """Check the lengths of the records, which TensorBoard's reader believes: it would ask for that much memory.

    The last record of a run that was killed may be incomplete. Source: TFRecord, a length of 8 bytes and its checksum
    of 4 before the data, and a checksum of 4 after it.

    Raises: UntrustedFileError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", header[:8])
            if length > MAX_RECORD_BYTES:
                refuse(
                    path, f"holds a record of {length:,} bytes, so it is damaged", "give another run, or move it away"
                )
            if file.tell() + length + 4 > size:
                return
            file.seek(length + 4, os.SEEK_CUR)


def _checked_step(step: int, source: Path) -> int:
    if not 0 <= step <= MAX_STEP:
        refuse(source, f"holds the step {shown(step)}, so it is damaged", "give another run")
    return step


def _from_csv(file: Path) -> dict[str, Curve]:
    if not file.is_file():
        return {}
    points: dict[str, list[tuple[int, float]]] = {}
    with open_regular(file, MAX_CSV_BYTES) as content:
        rows = _csv_rows(io.TextIOWrapper(content, encoding="utf-8", newline=""), file)
        for step, name, value in rows:
            points.setdefault(name, []).append((_checked_step(step, file), value))
    return {tag: Curve.of_points(found) for tag, found in points.items()}


def _csv_rows(lines: Iterable[str], file: Path) -> Iterator[tuple[int, str, float]]:
    """Yield (step, name, value). The last row of a run that was killed may be incomplete. Raises: FolioError."""
    rows = csv.reader(line for line in lines if line.endswith("\n"))
    try:
        next(rows, None)  # the header
        for step, name, value in rows:
            yield int(step), name, float(value)
    except (ValueError, csv.Error) as error:  # ValueError: not UTF-8, too few fields, no number, too many digits
        problem = f"is damaged in line {rows.line_num:,} ({shown(error)})"
        refuse(file, problem, "give another run, or move that file away")
