"""Read files of unknown origin: regular files of bounded size, holding plain data of bounded shape.

Run folders, sweeps, checkpoints and corpora are shared between people. Whatever such a file holds, reading it runs no
code, waits for no device or pipe, and takes memory in proportion to the file. Every reader of such files goes through
this module. Imports nothing that takes time.
"""

import json
import os
import reprlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from folio.runtime.errors import FolioError

KIB, MIB = 2**10, 2**20

MAX_DESCRIPTION_BYTES = 4 * MIB
"""Limit for the small files that describe a run, a sweep or a model. The largest of ours has a few kilobytes."""

MAX_DEPTH = 100
"""Limit for the nesting of JSON and YAML. Ours have four levels; a Hugging Face tokenizer.json has about ten."""

MAX_CONTAINERS = 1_000_000
"""Limit for the lists and objects in a JSON file. The largest of ours, a sweep of 50,000 jobs, has three for each."""

MAX_DIGITS = 400
"""Limit for the digits of a number in JSON or YAML: no finite float needs more than 310 before its point."""


class UntrustedFileError(FolioError):
    """A file that is not what its name promises. `problem` is the reason without the path and the remedy."""

    problem: str


def refuse(path: Path, problem: str, remedy: str = "give another file") -> NoReturn:
    """Raises: UntrustedFileError."""
    error = UntrustedFileError(f"{path} {problem}; {remedy}")
    error.problem = problem
    raise error


@contextmanager
def open_regular(path: Path, max_bytes: int | None = None) -> Iterator[BufferedReader]:
    """Open a regular file for reading; a link to one is followed.

    A FIFO would block, a device never ends: neither is opened for longer than it takes to see what it is.

    Raises: UntrustedFileError if `path` is not a regular file or is larger than max_bytes; FileNotFoundError and
    other OSError as `open` does.
    """
    # O_NONBLOCK, because opening a FIFO waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            refuse(path, f"is {kind_of_file(found.st_mode)}, not a regular file")
        if max_bytes is not None and found.st_size > max_bytes:
            refuse(path, f"has {found.st_size:,} bytes, and Folio reads at most {max_bytes:,} of such a file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def check_regular(path: Path) -> None:
    """Check a file that a library will open by its path.

    Raises: UntrustedFileError if it is no regular file; OSError.
    """
    with open_regular(path):
        pass


def kind_of_file(mode: int) -> str:
    """Return what a file is that is not regular, by its mode."""
    kinds = {
        "a folder": stat.S_ISDIR,
        "a FIFO": stat.S_ISFIFO,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
        "a socket": stat.S_ISSOCK,
    }
    return next((name for name, is_kind in kinds.items() if is_kind(mode)), "something else")


def read_bytes(path: Path, max_bytes: int = MAX_DESCRIPTION_BYTES) -> bytes:
    """Return the content of a regular file. Raises: UntrustedFileError; OSError."""
    with open_regular(path, max_bytes) as file:
        content = file.read(max_bytes + 1)  # a file may grow while it is read, and /proc reports size 0
    if len(content) > max_bytes:
        refuse(path, f"has more than {max_bytes:,} bytes, and Folio reads no more of such a file")
    return content


def read_text(path: Path, max_bytes: int = MAX_DESCRIPTION_BYTES, errors: str = "strict") -> str:
    """Return a UTF-8 text, without a byte order mark. Raises: UntrustedFileError; OSError."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        refuse(path, f"is not UTF-8 text (byte {error.start})")


def read_json(path: Path, max_bytes: int = MAX_DESCRIPTION_BYTES) -> Any:
    """Return the value of a JSON file. Raises: UntrustedFileError; OSError."""
    return parse_json(read_text(path, max_bytes), path)


def read_json_object(path: Path, max_bytes: int = MAX_DESCRIPTION_BYTES) -> dict[str, Any]:
    """Return the value of a JSON file that holds an object. Raises: UntrustedFileError; OSError."""
    value = read_json(path, max_bytes)
    if not isinstance(value, dict):
        refuse(path, f"holds {type(value).__name__}, not a JSON object")
    return value


def parse_json(text: str, path: Path) -> Any:
    """Return the value of a JSON text that was read from `path`. Raises: UntrustedFileError."""
    if has_many_containers(text):
        refuse(path, f"holds more than {MAX_CONTAINERS:,} lists and objects")
    try:
        value = json.loads(text, parse_int=_parse_int)
    except RecursionError:
        refuse(path, "is nested too deeply")
    except ValueError as error:
        refuse(path, f"is not JSON ({shown(error)})")
    check_depth(value, path)
    return value


def has_many_containers(text: str) -> bool:
    """Return whether a JSON text may hold more than MAX_CONTAINERS lists and objects: three bytes make one of 64."""
    return text.count("[") + text.count("{") > MAX_CONTAINERS


def check_depth(value: Any, path: Path, max_depth: int = MAX_DEPTH) -> None:
    """Check the nesting of plain values, without recursion. Raises: UntrustedFileError."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > max_depth:
            refuse(path, f"is nested more than {max_depth} levels deep")
        level = [child for parent in level for child in _children(parent)]


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, dict | list)]
    return [child for child in value if isinstance(child, dict | list)] if isinstance(value, list) else []


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def shown(value: object) -> str:
    """Return an untrusted value as a short line: cut, whatever its size and nesting."""
    if isinstance(value, BaseException):
        text = str(value).partition("\n")[0] or type(value).__name__
    else:
        text = value if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
