"""Read and cut the file in which W&B keeps a run: offline-run-<time>-<id>/run-<id>.wandb.

It is a log in LevelDB's format after a header of 7 bytes: blocks of 32 KiB, in which each chunk of a record has a
checksum, a length and a type. A record is a protocol buffer.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2 as messages

from folio.runtime.files import write_atomically
from folio.runtime.untrusted import MIB, open_regular

MAX_BYTES = 1024 * MIB
FILE_HEADER, CHUNK_HEADER, BLOCK = 7, 7, 32_768
FULL, FIRST, LAST = 1, 2, 4
"""Types of a chunk: a whole record, or its first or last part. Parts between these have type 3."""


class Row(NamedTuple):
    """A row of a run's history."""

    number: int
    """W&B's own count of rows, which it calls a step."""
    step: int | None
    """Optimizer step at which it was logged."""
    begin: int
    """Place in the file at which it begins."""


class RunFile:
    """The rows of a file that a run may still be writing: each call of `read_rows` returns those that are new."""

    def __init__(self, path: Path, step_key: str) -> None:
        self.path = path
        self.step_key = step_key
        self.n_rows = 0
        """Number of rows that were read."""
        self._position = FILE_HEADER

    def read_rows(self) -> list[Row]:
        """Return the complete rows that the file has beyond those that were read.

        Raises: OSError or FolioError if it cannot be read.
        """
        rows = []
        with open_regular(self.path, MAX_BYTES) as stream:
            stream.seek(self._position)
            data = stream.read()
        begin = self._position
        for record, end in _records(data, begin):
            if record.WhichOneof("record_type") == "history":
                rows.append(Row(record.history.step.num, self._step(record), begin))
            begin = self._position = end
        self.n_rows += len(rows)
        return rows

    def _step(self, record: Any) -> int | None:
        values = [item.value_json for item in record.history.item if self.step_key in (item.key, *item.nested_key)]
        return int(values[0]) if values and values[0].isdecimal() and len(values[0]) < 20 else None


def cut_after(path: Path, step: int, step_key: str) -> int:
    """Cut a file before its first row after a step, as if the run had been killed there. Return the next row's number.

    Raises: OSError or FolioError if it cannot be read or written.
    """
    rows = RunFile(path, step_key).read_rows()
    kept = rows
    cut = next((index for index, row in enumerate(rows) if row.step is not None and row.step > step), None)
    if cut is not None:
        kept = rows[:cut]
        with open_regular(path, MAX_BYTES) as stream:
            write_atomically(path, stream.read(rows[cut].begin))
    return kept[-1].number + 1 if kept else 0


def _records(data: bytes, start: int) -> Iterator[tuple[Any, int]]:
    """Yield the complete records in a part of a file that begins at `start`, each with the place where it ends."""
    parts, position = b"", 0
    while True:
        left = BLOCK - (start + position) % BLOCK
        if left < CHUNK_HEADER:  # the rest of a block is empty
            position += left
            continue
        if position + CHUNK_HEADER > len(data):
            return
        _, length, kind = struct.unpack_from("<IHB", data, position)
        end = position + CHUNK_HEADER + length
        if end > len(data) or not FULL <= kind <= LAST:
            return
        parts = (b"" if kind in (FULL, FIRST) else parts) + data[position + CHUNK_HEADER : end]
        position = end
        if kind in (FULL, LAST):
            record = messages.Record()  # type: ignore[attr-defined]
            try:
                record.ParseFromString(parts)
            except DecodeError:
                return
            yield record, start + position
