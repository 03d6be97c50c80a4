"""Which files a corpus consists of, and what their names say about their content."""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from folio.data.corpora.patterns import matching_names, names_below
from folio.data.corpora.signatures import HEAD_BYTES, recognize
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import open_regular

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

MIN_EXPANDED_BYTES, MAX_EXPANSION = 1 << 28, 1000
"""A packed file may hold this much text, or this multiple of its size. Texts shrink to a third or a tenth; less than a
thousandth is the same again and again, and its tokens would fill the disk."""


@dataclass(frozen=True)
class CorpusFile:
    """A file that was found, and how to read it. `compression` is one of COMPRESSIONS, or empty."""

    path: Path
    format: str
    compression: str
    n_bytes: int
    modified_ns: int

    def check_expansion(self, n_unpacked: int) -> None:
        """Raises: FolioError if the file is too small to hold this many bytes of text."""
        if n_unpacked > max(MIN_EXPANDED_BYTES, MAX_EXPANSION * self.n_bytes):
            raise FolioError(
                f"{self.path} has {self.n_bytes:,} bytes, and unpacks to more than {n_unpacked:,} bytes, the same "
                "again and again; repack it without the repetitions, or leave it out"
            )


def find_files(pattern: str, text_suffixes: tuple[str, ...] = ()) -> list[CorpusFile]:
    """Return the files that a pattern such as corpus/**/*.txt matches, sorted; of a folder, all readable files in it.

    `text_suffixes` are those of plain text, besides FORMATS.

    Raises: FolioError if there are none, or one is of a kind that cannot be read.
    """
    try:
        if Path(pattern).is_dir():
            names = names_below(pattern)
            files = _describe_all((name for name in names if _format_of(name, text_suffixes)), text_suffixes)
        else:
            names = matching_names(pattern)
            files = _describe_all(names, text_suffixes)
    except OSError as error:
        raise FolioError(
            f"data.path={pattern}: {error.filename} cannot be read: {error.strerror}; fix its permissions, or give "
            "another pattern"
        ) from error
    if not files:
        raise FolioError(_explain_no_match(pattern, names))
    return files


def _describe_all(names: Iterable[str], text_suffixes: tuple[str, ...]) -> list[CorpusFile]:
    return [file for name in names if (file := _describe(Path(name), text_suffixes)) is not None]


def _describe(path: Path, text_suffixes: tuple[str, ...]) -> CorpusFile | None:
    """Return None for a folder. Raises: FolioError if it is no file that can be read; OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise FolioError(f"{path} is a link to nothing, or was just removed; restore it, or narrow data.path") from None
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        with open_regular(path):
            pass  # it says what it is instead
    format_and_compression = _format_of(path, text_suffixes)
    if format_and_compression is None:
        raise FolioError(_explain_format(path))
    return CorpusFile(path, *format_and_compression, status.st_size, status.st_mtime_ns)


def _explain_format(path: Path) -> str:
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
    if known := recognize(head):
        return f"data.path matches {path}, which {known}, or narrow the pattern"
    say_so = (
        f", or, if it is text, say so: data.text_suffixes=[{path.suffix}]" if path.suffix and b"\0" not in head else ""
    )
    return f"data.path matches {path}, which cannot be read; readable are {READABLE}; narrow the pattern{say_so}"


def _explain_no_match(pattern: str, others: list[str]) -> str:
    suffixes = Counter(Path(name).suffix for name in others if os.path.isfile(name))
    suffixes.pop("", None)
    if suffixes:
        found = ", ".join(f"{suffix} ({n:,})" for suffix, n in suffixes.most_common(5))
        return (
            f"data.path={pattern} holds no file that can be read, but {found}; readable are {READABLE}; say which "
            f"others are text, as in data.text_suffixes=[{next(iter(suffixes))}]"
        )
    brackets = "; a [ in a name that does not exist is a pattern, and [[] means the sign itself" * ("[" in pattern)
    return (
        f"data.path={pattern} matches no file in {_deepest_folder(pattern)}; give a pattern such as 'corpus/**/*.txt', "
        f"where ** stands for any number of folders; readable are {READABLE}{brackets}"
    )


def _deepest_folder(pattern: str) -> Path:
    """Return the deepest existing folder of a pattern without a match."""
    fixed = Path(re.split(r"[*?\[]", pattern)[0])
    folder = fixed if fixed.is_dir() else fixed.parent
    while not folder.is_dir():
        folder = folder.parent
    return folder.resolve()


def _format_of(path: str | Path, text_suffixes: tuple[str, ...]) -> tuple[str, str] | None:
    """Return format and compression by the name, in any case; None if the file cannot be read."""
    formats = FORMATS | {f".{suffix.lower().lstrip('.')}": TEXT for suffix in text_suffixes}
    *_, inner, outer = ["", "", *(suffix.lower() for suffix in Path(path).suffixes)]
    if outer not in COMPRESSIONS:
        return (formats[outer], "") if outer in formats else None
    format_ = formats.get(inner) if inner else TEXT
    return None if format_ in (None, PARQUET) else (format_, outer)


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
