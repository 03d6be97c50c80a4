"""The files that a pattern such as corpus/**/*.txt matches.

The standard library's glob skips what it may not read, and follows links in circles. Here a folder that cannot be read
is an error, and `**` visits each folder once. Otherwise the same names match: those that begin with a dot only if the
pattern does.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

MAGIC = re.compile(r"[*?[]")


def matching_names(pattern: str) -> list[str]:
    """Return the paths that match, of files and others, sorted. Raises: OSError for a folder that cannot be read."""
    # Sorted, because a file system has an order of its own; as bytes, because a locale would change the order.
    return sorted(set(_expand("", Path(pattern).parts)), key=os.fsencode)


def names_below(folder: str) -> list[str]:
    """Return all paths in a folder and its subfolders, sorted. Raises: OSError for a folder that cannot be read."""
    return sorted(set(_expand(folder, ("**", "*"))), key=os.fsencode)


def _expand(folder: str, parts: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths in a folder that match the parts of a pattern."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    path = os.path.join(folder, part)
    if part == "**":
        for below in _folders_below(folder):
            yield from _expand(below, rest or ("*",))
    elif not MAGIC.search(part) or ("[" in part and os.path.lexists(path)):  # [ and ] can be meant as they are
        if os.path.lexists(path):
            yield from _expand(path, rest)
    elif is_folder(folder or "."):
        matches = re.compile(fnmatch.translate(part)).match
        for name in os.listdir(folder or "."):
            if matches(name) and (part.startswith(".") or not name.startswith(".")):
                yield from _expand(os.path.join(folder, name), rest)


def _folders_below(top: str) -> Iterator[str]:
    """Yield a folder and all those in it. Of several names of one folder, the first in the order of names is taken."""
    visited: set[tuple[int, int]] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        if not is_folder(folder or "."):
            continue
        status = os.stat(folder or ".")
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        yield folder
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in entries if entry.name[0] != "." and _may_be_folder(entry)]
        names.sort(key=lambda name: os.fsencode(f"{name}/"), reverse=True)
        waiting += [os.path.join(folder, name) for name in names]


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link, without asking the file system again."""
    return entry.is_symlink() or entry.is_dir(follow_symlinks=False)


def is_folder(path: str) -> bool:
    """Return whether a path is a folder; links are followed. Raises: OSError if that cannot be known."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return False  # a link to nothing or to itself
