"""Files that are either complete or absent: atomic writes, locks between processes, checksums."""

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, lock_descriptor

from folio.runtime.errors import FolioError
from folio.runtime.untrusted import kind_of_file, open_regular

UNFINISHED = ".tmp"
"""Suffix of files that are being written."""


def expand_home(path: str) -> str:
    """Return a path with a leading `~` or `~user` replaced by the home folder, as a shell does.

    Raises: FolioError if there is no such home: a folder named `~` would be dangerous to remove. It can be had as ./~.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise FolioError(f"{path}: {path.partition('/')[0]} is no user with a home folder; write the whole path")
    return expanded


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
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error  # not the name of the temporary file
        raise
    sync(path.parent)


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


@contextmanager
def make_folder(folder: Path, option: str) -> Iterator[None]:
    """Make a folder for the files that follow. If they fail, it is removed again, unless something is in it.

    Raises: FolioError, which names the option that gave the folder, if it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolioError(f"{option}={folder}: cannot make that folder ({error.strerror}); name another") from None
    with remove_if_empty(*missing):
        yield


@contextmanager
def remove_if_empty(*folders: Path) -> Iterator[None]:
    """Remove the folders, in this order, if an error finds nothing in them: what is refused leaves no trace."""
    try:
        yield
    except BaseException:
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def draft_folder(folder: Path, last: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder for files that appear in `folder` together, or not at all after an error.

    A folder that does not exist, or is empty, appears complete. With overwrite, the files replace those with their
    names, and `last`, without which readers do not use the others, is missing there until all have been written.

    Raises: OSError, also if the folder has files and overwrite is False.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}{UNFINISHED}")
    draft.mkdir()
    try:
        yield draft
        names = sorted((path.name for path in draft.iterdir()), key=lambda name: name == last)
        for name in names:
            sync(draft / name)
        if overwrite and folder.exists():
            (folder / last).unlink(missing_ok=True)
            for name in names:
                os.replace(draft / name, folder / name)
        else:
            draft.rename(folder)
    finally:
        if draft.exists():
            for path in draft.iterdir():
                path.unlink()
            draft.rmdir()
    sync(folder.parent)


def check_output_folder(folder: Path, option: str, remedy: str = "use another folder") -> None:
    """Check that files can be written into a folder, before the work whose results they hold. Leaves nothing behind.

    Raises: FolioError, which names the option that gave the folder.
    """
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    trial = existing / f".folio.{uuid.uuid4().hex}{UNFINISHED}"
    try:
        before = existing.stat()
        trial.mkdir()  # the only certain test: permissions say nothing about /proc, quotas or a full disk
        trial.rmdir()
        with suppress(PermissionError):  # of a folder that belongs to someone else
            os.utime(existing, ns=(before.st_atime_ns, before.st_mtime_ns))
        for name in folder.parts:
            with suppress(FileNotFoundError):
                os.lstat(existing / name)  # which may be too long
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FolioError(f"{option}={folder}: cannot write in {existing} ({reason}); {remedy}") from None


def sync(path: Path) -> None:
    """Make a file, or the renames in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Check a folder from someone else before Folio writes in it: samples.md could link to any file, or be a FIFO.

    Raises: FolioError if a link leads out of the folder, or something is neither a file nor a folder. Reading through
    links is harmless.
    """
    home = os.path.realpath(folder)
    for path in sorted(folder.rglob("*")):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # another process works here, too
            continue
        if stat.S_ISLNK(mode):
            target = os.path.realpath(path)
            if os.path.commonpath([home, target]) != home:
                raise FolioError(
                    f"{path} is a link to {target}, outside {folder}, and would be written to; replace the link with "
                    "a copy of the file"
                )
        elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FolioError(f"{path} is {kind_of_file(mode)}, and would be written to; remove it")


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file next to `path`; other processes wait for it. The kernel releases it if this process dies.

    The lock file stays, except after `remove_lock`.
    """
    file = _lock_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file):
        yield


def remove_lock(path: Path) -> None:
    """Remove the lock file of `path`, which this process holds, because nothing came of what it protected."""
    _lock_file(path).unlink()


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


@contextmanager
def lock_folder(folder: Path, activity: str) -> Iterator[None]:
    """Lock a folder for an activity such as "training in outputs/run". The kernel releases it if this process dies.

    The lock is on the folder itself, so it leaves no file behind.

    Raises: FolioError at once if another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock_descriptor(descriptor, blocking=False):
            raise FolioError(f"another process is {activity}; wait for it, or stop it")
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hex digest of a regular file. Raises: UntrustedFileError; OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
