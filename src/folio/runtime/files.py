"""Files that are either complete or absent: atomic writes, locks between processes, checksums."""

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
"""Suffix of files that are being written."""


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file for the new content of `path`; a reader, or a crash at any moment, sees the old file or the new one.

    The temporary file is in the same folder because a rename is atomic only within one file system.

    Raises: OSError (disk full, no permission). After any error `path` is unchanged and no temporary file remains.
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
    _sync_folder(path.parent)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` with `atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(data)


def write_json(path: Path, values: dict[str, Any] | list[str]) -> None:
    """Write values to `path` as indented JSON with `atomic_writer`."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of a killed process. No other process may be writing in the folder."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file next to `path`; other processes wait for it. The kernel releases it if this process dies.

    The lock file is never removed: a third process would lock a new file while a second one still waits on the old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def lock_folder(folder: Path, activity: str) -> Iterator[None]:
    """Lock a folder for an activity such as "training in outputs/run". The kernel releases it if this process dies.

    The lock is on the folder itself, so it leaves no file behind.

    Raises: FolioError at once if another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolioError(f"another process is {activity}; wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
