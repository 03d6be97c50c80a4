"""Files that are whole or absent: atomic writes, locks between processes, checksums."""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from folio.runtime.errors import FolioError

UNFINISHED = ".tmp"


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A file to write what `path` is to hold; a reader, or a crash at any moment, sees the old file or the new one.

    The temporary file lies in the same folder because a rename is atomic only within one file system.

    Raises: OSError (disk full, no permission). After any error `path` is what it was, and nothing lies beside it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Put `data` at `path`, by `atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(data)


def write_json(path: Path, values: dict[str, Any] | list[str]) -> None:
    """Put values at `path` as JSON that a person can read, by `atomic_writer`."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed has left half-written. For a folder in which nobody is writing."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path`; other processes that want it wait. The kernel drops it when we die.

    The lock file stays: removing it would let a third process lock a new file while a second one still
    waits on the old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def sole_use(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes from `doing` this: "training in outputs/run". Raises: FolioError at once where one does.

    The lock is on the folder itself: nothing is left behind, and the kernel drops it when we die.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolioError(f"another process is {doing}; wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
