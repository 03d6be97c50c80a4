"""A text on disk as a corpus: checked, cut into two splits, read in pieces. Memory does not grow with the file."""

import codecs
import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.data.tokenizers.base import last_end
from folio.runtime.errors import FolioError

TRAIN_FRACTION = 0.9
"""Of the characters."""

CHUNK_BYTES = 1 << 20

WHITE_SPACE = re.compile(r"(?=\s)")


@dataclass(frozen=True)
class Split:
    """The bytes of a file from `first` up to `end`."""

    path: Path
    first: int
    end: int

    @property
    def n_bytes(self) -> int:
        return self.end - self.first

    def read(self, count: Callable[[int], None]) -> Iterator[str]:
        """The text in chunks, no character cut; `count` is told the bytes of each as it is read.

        Bytes are decoded as they are: CRLF stays CRLF, and a byte order mark stays a character of the text.

        Raises: FolioError for bytes that are not UTF-8, or fewer than there were.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset = self.first
        with open(self.path, "rb") as file:
            file.seek(offset)
            while chunk := file.read(min(CHUNK_BYTES, self.end - offset)):
                yield _decode(decoder, chunk, offset, self.path)
                offset += len(chunk)
                count(len(chunk))
        _decode(decoder, b"", offset, self.path, final=True)
        if offset < self.end:
            raise FolioError(f"data.path={self.path} became shorter while it was read; start again when it is complete")


def check_text_file(path: Path | None) -> None:
    """Whether `path` can be a corpus: an existing, readable, non-empty file of UTF-8 text without NUL bytes.

    Raises: FolioError that names the rule and, for wrong bytes, where they are.
    """
    if path is None:
        raise FolioError("data.path is not set, but data=text_file needs it; give data.path=<a text file>")
    try:
        # Not opened before it is known to be a regular file: opening a pipe would wait for ever.
        if not path.exists():
            raise FolioError(f"data.path={path} does not exist; give the path of a UTF-8 text file")
        if not path.is_file():
            raise FolioError(f"data.path={path} is not a regular file; give the path of a UTF-8 text file")
        _check_text_bytes(path)
    except OSError as error:
        raise FolioError(
            f"data.path={path} cannot be read: {error.strerror}; mend its permissions, or give another file"
        ) from error


def _check_text_bytes(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if (nul := chunk.find(b"\0")) >= 0:
                raise FolioError(
                    f"data.path={path} holds a NUL byte at byte offset {offset + nul}, so it is not "
                    "UTF-8 text; convert it, from UTF-16 for instance with iconv -f UTF-16 -t UTF-8"
                )
            _decode(decoder, chunk, offset, path)
            offset += len(chunk)
    if offset == 0:
        raise FolioError(f"data.path={path} is empty; give a file with text in it")
    _decode(decoder, b"", offset, path, final=True)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int, path: Path, final: bool = False) -> str:
    n_pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise FolioError(
            f"data.path={path} is not valid UTF-8 at byte offset {offset - n_pending + error.start} "
            f"({error.reason}); convert it, for instance with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


def split_text(path: Path) -> tuple[dict[str, Split], str]:
    """The splits `train` and `val` of a UTF-8 file, and the sha256 of the whole.

    Raises: FolioError where a split would be empty.
    """
    digest, n_bytes = hashlib.sha256(), 0
    n_before = [0]  # characters that begin before each chunk, and before the end
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            n_bytes += len(chunk)
            n_before.append(n_before[-1] + len(_first_bytes(chunk)))
        n_characters = n_before[-1]
        n_train = int(TRAIN_FRACTION * n_characters)
        for name, n in (("train", n_train), ("val", n_characters - n_train)):
            if n == 0:
                raise FolioError(
                    f"data.path={path}: the {name} split of a {n_characters} character text is empty; use a longer text"
                )
        index = bisect_right(n_before, n_train) - 1
        file.seek(index * CHUNK_BYTES)
        cut = index * CHUNK_BYTES + int(_first_bytes(file.read(CHUNK_BYTES))[n_train - n_before[index]])
    return {"train": Split(path, 0, cut), "val": Split(path, cut, n_bytes)}, digest.hexdigest()


def _first_bytes(chunk: bytes) -> np.ndarray:
    """Where characters begin: (N,) int64. All other bytes of UTF-8 have the form 10xxxxxx."""
    return np.flatnonzero((np.frombuffer(chunk, dtype=np.uint8) & 0xC0) != 0x80)


LONGEST_PIECE = 1 << 22
"""Characters that are held for want of a place to cut."""


def pieces(chunks: Iterable[str], last_cut: Callable[[str], int]) -> Iterator[str]:
    """The same text, cut where `last_cut` allows it.

    `last_cut` gets a text, of which more may follow, and returns the last place where that may be cut, or 0; what
    lies behind the place waits for the next chunk. A text of another kind, such as Chinese without a space or line,
    is cut after LONGEST_PIECE characters all the same, for memory has an end: there, and nowhere else, the ids may be
    others than those of the whole.
    """
    rest = ""
    for chunk in chunks:
        text = rest + chunk
        cut = last_cut(text) or (len(text) if len(text) >= LONGEST_PIECE else 0)
        if cut:
            yield text[:cut]
        rest = text[cut:]
    if rest:
        yield rest


def before_white_space(text: str) -> int:
    """The last place in front of white space, where no word is cut; for `pieces`."""
    return last_end(WHITE_SPACE, text)
