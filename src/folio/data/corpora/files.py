"""Which files a corpus is made of, and what their names say about their content."""

import glob
import hashlib
import os
import re
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
PACKED = (".gz", ".zst")
READABLE = f"{', '.join(FORMATS)}, and all but .parquet followed by {' or '.join(PACKED)} as well"


@dataclass(frozen=True)
class CorpusFile:
    """A file that was found, and how to read it. `packing` is one of PACKED, or empty."""

    path: Path
    format: str
    packing: str
    n_bytes: int
    modified_ns: int


def find_files(pattern: str) -> list[CorpusFile]:
    """The files that a pattern such as corpus/**/*.txt matches, by name; of a folder, all in it that can be read.

    Raises: FolioError where there are none, or one is of a kind that cannot be read.
    """
    folder = Path(pattern)
    try:
        if folder.is_dir():
            found = [path for path in _matches(f"{glob.escape(pattern)}/**/*") if _format_of(path) is not None]
        else:
            found = _matches(pattern)
        files = [_look_at(path) for path in found]
    except OSError as error:
        raise FolioError(
            f"data.path={pattern}: {error.filename} cannot be read: {error.strerror}; mend its permissions, or give "
            "another pattern"
        ) from error
    if not files:
        raise FolioError(
            f"data.path={pattern} matches no file {_where(pattern)}; give a pattern such as 'corpus/**/*.txt', where "
            f"** stands for folders however deep; what can be read is {READABLE}"
        )
    return files


def _matches(pattern: str) -> list[Path]:
    # Sorted, because a file system gives names in an order of its own; as bytes, because a locale would change it.
    return [Path(name) for name in sorted(glob.iglob(pattern, recursive=True), key=os.fsencode) if os.path.isfile(name)]


def _where(pattern: str) -> str:
    """Said of a pattern without a match: the deepest folder of it that there is."""
    fixed = Path(re.split(r"[*?\[]", pattern)[0])
    folder = fixed if fixed.is_dir() else fixed.parent
    while not folder.is_dir():
        folder = folder.parent
    return f"in {folder.resolve()}"


def _format_of(path: Path) -> tuple[str, str] | None:
    """Format and packing by the name, which may be in capitals; None for what cannot be read."""
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    if outer not in PACKED:
        return (FORMATS[outer], "") if outer in FORMATS else None
    format_ = FORMATS.get(inner) if inner else TEXT
    return None if format_ in (None, PARQUET) else (format_, outer)


def _look_at(path: Path) -> CorpusFile:
    kind = _format_of(path)
    if kind is None:
        raise FolioError(f"data.path matches {path}, which cannot be read: what can is {READABLE}; narrow the pattern")
    seen = path.stat()
    return CorpusFile(path, *kind, seen.st_size, seen.st_mtime_ns)


def files_below(folder: Path) -> list[CorpusFile]:
    """All files in a folder, of whatever kind, by name."""
    found = []
    for path in sorted(folder.rglob("*"), key=os.fsencode):
        if path.is_file():
            seen = path.stat()
            found.append(CorpusFile(path, "", "", seen.st_size, seen.st_mtime_ns))
    return found


def listing_sha256(files: list[CorpusFile]) -> str:
    """Of names, sizes and times: another one means that a file came, went or was written to.

    The bytes are not read, so that a start takes no longer when the corpus is larger.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(os.path.abspath(file.path)))
        digest.update(f"\0{file.n_bytes}\0{file.modified_ns}\n".encode())
    return digest.hexdigest()
