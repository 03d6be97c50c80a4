"""Read the scalars that a run has logged, from TensorBoard's files or the CSV file. Imports no torch."""

import csv
import io
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from folio.runtime.errors import FolioError
from folio.runtime.untrusted import KIB, MIB, open_regular, refuse, shown

MAX_RECORD_BYTES = 64 * MIB
"""Limit for one event. A figure, the largest of ours, has less than one megabyte."""

MAX_SCALARS_BYTES = 64 * KIB
"""Size above which an event is skipped: it holds a figure. Those with scalars have less than one kilobyte."""

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
    """Read the scalars of TensorBoard's files.

    TensorBoard's own reader keeps every kind of event, with kilobytes for each tag. As in it, the start of a resumed
    run takes the place of what was logged from its step on.
    """
    if not folder.is_dir():
        return {}
    points: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.iterdir()):
        if "tfevents" not in file.name:  # what TensorBoard looks for
            continue
        for event in _events(file):
            if event.session_log.status == SessionLog.START:
                points = {tag: [point for point in found if point[0] < event.step] for tag, found in points.items()}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    point = _checked_step(event.step, folder), value.simple_value
                    points.setdefault(value.tag, []).append(point)
    return {tag: Curve.of_points(found) for tag, found in points.items() if found}


def _events(path: Path) -> Iterator[Event]:
    """Yield the events of a file that can hold scalars, up to the first that is damaged or incomplete.

    Source: TFRecord, a length of 8 bytes and its checksum of 4 before the data, and a checksum of 4 after it.

    Raises: UntrustedFileError.
    """
    remedy = "give another run, or move it away"
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", header[:8])
            if length > MAX_RECORD_BYTES:
                refuse(path, f"holds a record of {length:,} bytes, so it is damaged", remedy)
            if file.tell() + length + 4 > size:
                return  # the run was killed
            if length > MAX_SCALARS_BYTES:
                file.seek(length + 4, os.SEEK_CUR)
                continue
            data, checksum = file.read(length), file.read(4)
            if checksum != struct.pack("<I", masked_crc32c(data)):
                return
            try:
                yield Event.FromString(data)
            except (DecodeError, ValueError) as error:
                refuse(path, f"holds a damaged event ({shown(error)})", remedy)


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
