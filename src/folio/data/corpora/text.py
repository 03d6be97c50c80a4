"""A text on disk: checked, split by position, and read in pieces. Memory does not grow with the file."""

import codecs
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.data.corpora.progress import Advance
from folio.data.corpora.signatures import HEAD_BYTES, UTF8_BOM, recognize
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import open_regular

TRAIN_FRACTION = 0.9
"""Share of the characters that is for training."""

CHUNK_BYTES = 1 << 20

MAX_PIECE_CHARACTERS = 1 << 22
"""Length after which a text without a safe place to cut is cut anyway."""


@dataclass(frozen=True)
class TextSplit:
    """The bytes of a file from `first` up to `end`."""

    path: Path
    first: int
    end: int

    @property
    def n_bytes(self) -> int:
        return self.end - self.first

    def read(self, advance: Advance) -> Iterator[str]:
        """Yield the text in chunks of whole characters, and report the bytes of each to `advance`.

        Bytes are decoded as they are: CRLF stays CRLF.

        Raises: FolioError if bytes are not UTF-8, or the file became shorter.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset = self.first
        with open(self.path, "rb") as file:
            file.seek(offset)
            while chunk := file.read(min(CHUNK_BYTES, self.end - offset)):
                yield _decode(decoder, chunk, offset, self.path)
                offset += len(chunk)
                advance(len(chunk))
        _decode(decoder, b"", offset, self.path, final=True)
        if offset < self.end:
            raise FolioError(
                f"data.path={self.path} became shorter while it was being read; run the command again when it is "
                "complete"
            )


def check_text_file(path: Path) -> str:
    """Check that a file is non-empty UTF-8 text without NUL bytes. Returns its sha256.

    Raises: FolioError with the rule that it breaks and, for wrong bytes, their offset.
    """
    try:
        # Checked before it is opened: opening a pipe would block for ever.
        if not path.exists():
            raise FolioError(f"data.path={path} does not exist; give the path of a UTF-8 text file")
        if not path.is_file():
            raise FolioError(f"data.path={path} is not a regular file; give the path of a UTF-8 text file")
        return _check_text_bytes(path)
    except OSError as error:
        raise FolioError(
            f"data.path={path} cannot be read: {error.strerror}; fix its permissions, or give another file"
        ) from error


def _check_text_bytes(path: Path) -> str:
    decoder, digest = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256()
    offset = 0
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            try:
                _check_chunk(decoder, chunk, offset, path)
            except FolioError:
                if offset == 0 and (known := recognize(chunk[:HEAD_BYTES])):
                    raise FolioError(f"data.path={path} {known}") from None
                raise
            digest.update(chunk)
            offset += len(chunk)
    if offset == 0:
        raise FolioError(f"data.path={path} is empty; give a file with text in it")
    _decode(decoder, b"", offset, path, final=True)
    return digest.hexdigest()


def _check_chunk(decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int, path: Path) -> None:
    if (nul := chunk.find(b"\0")) >= 0:
        raise FolioError(
            f"data.path={path} holds a NUL byte at byte offset {offset + nul}, so it is not UTF-8 text; convert it, "
            "from UTF-16 for instance with iconv -f UTF-16 -t UTF-8"
        )
    _decode(decoder, chunk, offset, path)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int, path: Path, final: bool = False) -> str:
    n_pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise FolioError(
            f"data.path={path} is not valid UTF-8 at byte offset {offset - n_pending + error.start} "
            f"({error.reason}); convert it, for instance with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


Places = Callable[[int], dict[str, tuple[int, int]]]
"""Where the splits of a text are: from its number of characters, the first and the end of each split, in order."""


def train_and_val(n_characters: int) -> dict[str, tuple[int, int]]:
    """Return the community's two splits: the first 90 % for training, the rest for validation.

    Example:

        >>> train_and_val(1_115_394)
        {'train': (0, 1003854), 'val': (1003854, 1115394)}
    """
    end = int(TRAIN_FRACTION * n_characters)
    return {"train": (0, end), "val": (end, n_characters)}


def train_val_and_test(n_characters: int, test_fraction: float) -> dict[str, tuple[int, int]]:
    """Return three splits: the last `test_fraction` for test, and the rest as `train_and_val` divides it."""
    end = int((1 - test_fraction) * n_characters)
    return {**train_and_val(end), "test": (end, n_characters)}


def split_text(path: Path, places: Places = train_and_val) -> tuple[dict[str, TextSplit], str]:
    """Return the splits of a UTF-8 file, and the sha256 of the file.

    A byte order mark in front belongs to none of them.

    Raises: FolioError if a split would be empty.
    """
    digest, n_bytes = hashlib.sha256(), 0
    n_before = [0]  # number of characters before each chunk, and in total
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            n_bytes += len(chunk)
            n_before.append(n_before[-1] + len(_character_starts(chunk)))
        file.seek(0)
        is_marked = file.read(len(UTF8_BOM)) == UTF8_BOM  # that is one character
        n_characters = n_before[-1] - is_marked

        def offset_of(character: int) -> int:
            """Return where a character begins in the file, in bytes."""
            if character == n_characters:
                return n_bytes
            character += is_marked
            index = bisect_right(n_before, character) - 1
            file.seek(index * CHUNK_BYTES)
            return index * CHUNK_BYTES + int(_character_starts(file.read(CHUNK_BYTES))[character - n_before[index]])

        splits = {}
        for name, (first, end) in places(n_characters).items():
            if first == end:
                raise FolioError(
                    f"data.path={path}: the {name} split of a {n_characters} character text is empty; use a longer text"
                )
            splits[name] = TextSplit(path, offset_of(first), offset_of(end))
    return splits, digest.hexdigest()


def _character_starts(chunk: bytes) -> np.ndarray:
    """Return where characters begin: (N,) int64. All other bytes of UTF-8 have the form 10xxxxxx."""
    return np.flatnonzero((np.frombuffer(chunk, dtype=np.uint8) & 0xC0) != 0x80)


def cut_into_pieces(chunks: Iterable[str], last_cut: Callable[[str], int]) -> Iterator[str]:
    """Yield the same text, cut only where `last_cut` allows it.

    `last_cut` takes a text, of which more may follow, and returns the last position at which it can be cut, or 0. The
    rest is held back for the next chunk. A text without such a position, such as Chinese without spaces or lines, is
    cut after MAX_PIECE_CHARACTERS anyway, so that memory stays bounded. Only there can the ids differ from those of
    the whole text.
    """
    rest = ""
    for chunk in chunks:
        text = rest + chunk
        cut = last_cut(text) or (len(text) if len(text) >= MAX_PIECE_CHARACTERS else 0)
        if cut:
            yield text[:cut]
        rest = text[cut:]
    if rest:
        yield rest
