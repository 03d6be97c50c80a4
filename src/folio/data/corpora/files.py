"""Which files a corpus consists of, and what their names say about their content."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from folio.runtime.errors import FolioError

TEXT, JSON_LINES, PARQUET = "text", "jsonl", "parquet"
FORMATS = {
    ".txt": TEXT,
    ".text": TEXT,
    ".md": TEXT,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON_LINES,
    ".parquet": PARQUET,
}
COMPRESSIONS = (".gz", ".zst")
READABLE = f"{', '.join(FORMATS)}, and all but .parquet followed by {' or '.join(COMPRESSIONS)} as well"


@dataclass(frozen=True)
class CorpusFile:
    """A file that was found, and how to read it. `compression` is one of COMPRESSIONS, or empty."""

    path: Path
    format: str
    compression: str
    n_bytes: int
    modified_ns: int


def find_files(pattern: str) -> list[CorpusFile]:
    """Return the files that a pattern such as corpus/**/*.txt matches, sorted; of a folder, all readable files in it.

    Raises: FolioError if there are none, or one is of a kind that cannot be read.
    """
    folder = Path(pattern)
    try:
        if folder.is_dir():
            found = [path for path in _matches(f"{glob.escape(pattern)}/**/*") if _format_of(path) is not None]
        else:
            found = _matches(pattern)
        files = [_describe(path) for path in found]
    except OSError as error:
        raise FolioError(
            f"data.path={pattern}: {error.filename} cannot be read: {error.strerror}; fix its permissions, or give "
            "another pattern"
        ) from error
    if not files:
        raise FolioError(
            f"data.path={pattern} matches no file in {_deepest_folder(pattern)}; give a pattern such as "
            f"'corpus/**/*.txt', where ** stands for any number of folders; readable are {READABLE}"
        )
    return files


def _matches(pattern: str) -> list[Path]:
    # Sorted, because a file system has an order of its own; as bytes, because a locale would change the order.
    return [Path(name) for name in sorted(glob.iglob(pattern, recursive=True), key=os.fsencode) if os.path.isfile(name)]


def _deepest_folder(pattern: str) -> Path:
    """Return the deepest existing folder of a pattern without a match."""
    fixed = Path(re.split(r"[*?\[]", pattern)[0])
    folder = fixed if fixed.is_dir() else fixed.parent
    while not folder.is_dir():
        folder = folder.parent
    return folder.resolve()


def _format_of(path: Path) -> tuple[str, str] | None:
    """Return format and compression by the name, in any case; None if the file cannot be read."""
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    if outer not in COMPRESSIONS:
        return (FORMATS[outer], "") if outer in FORMATS else None
    format_ = FORMATS.get(inner) if inner else TEXT
    return None if format_ in (None, PARQUET) else (format_, outer)


def _describe(path: Path) -> CorpusFile:
    format_and_compression = _format_of(path)
    if format_and_compression is None:
        raise FolioError(f"data.path matches {path}, which cannot be read; readable are {READABLE}; narrow the pattern")
    status = path.stat()
    return CorpusFile(path, *format_and_compression, status.st_size, status.st_mtime_ns)


def listing_sha256(files: Iterable[CorpusFile]) -> str:
    """Return a digest of names, sizes and times, which changes when a file is added, removed or written to.

    The bytes are not read, so opening a larger corpus takes no longer.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(os.path.abspath(file.path)))
        digest.update(f"\0{file.n_bytes}\0{file.modified_ns}\n".encode())
    return digest.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return the `listing_sha256` of all files in a folder, of any kind."""
    paths = (path for path in sorted(folder.rglob("*"), key=os.fsencode) if path.is_file())
    statuses = ((path, path.stat()) for path in paths)
    return listing_sha256(CorpusFile(path, "", "", status.st_size, status.st_mtime_ns) for path, status in statuses)
