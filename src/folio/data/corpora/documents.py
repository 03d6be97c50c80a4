"""Documents as they lie in files, taken out in blocks of some megabytes.

One process reads and unpacks, which is fast; what takes time, parsing and encoding, is done by others, who get the
blocks. So a single large file is shared among them as many small ones are. No more than a block and what the longest
document takes is in memory, whatever a file unpacks to.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from folio.data.corpora.files import JSON_LINES, PARQUET, TEXT, CorpusFile
from folio.runtime.errors import FolioError

READ_BYTES = 1 << 20
BLOCK_BYTES = 1 << 22
"""Of text in a block, about: a second of work."""

DOCUMENT_BYTES = 1 << 22
"""A longer document is cut behind the next newline, and each part counts as a document of its own."""

LOOK_FOR_NEWLINE = 1 << 16
NEWLINES = b"\r\n"
"""What is taken off both ends of a document between separators."""
LONGEST_LINE = 1 << 26
"""Of JSON lines, in bytes."""

ROWS_AT_ONCE = 256
"""Of a Parquet file: few, because a row may hold megabytes."""

INSTALL = "pip install '.[corpora]'"


@dataclass(frozen=True)
class DocumentBlock:
    """Documents that are still to be taken out: raw bytes of whole documents of a text, or of whole lines of JSON.

    `first` numbers the first of them in its file, from 1: a document, a line or a row. `end` is where the block ends
    in what the file unpacks to, in bytes or rows: where reading can go on. `n_read` bytes were read of the file for it.
    """

    file: CorpusFile
    documents: list[bytes] | bytes
    first: int
    next: int
    end: int
    n_read: int


@dataclass(frozen=True)
class DocumentFormat:
    """How documents are found in files."""

    text_field: str = "text"
    document_separator: str | None = None


def read_blocks(file: CorpusFile, reading: DocumentFormat, end: int = 0, first: int = 1) -> Iterator[DocumentBlock]:
    """The blocks of a file, from where an earlier one ended: its `end` and `next`.

    Raises: FolioError, which names the file, where it is damaged or cannot be read.
    """
    with _faults_of(file.path):
        if file.format == PARQUET:
            yield from _read_parquet(file, reading, end, first)
            return
        with open(file.path, "rb") as raw, _unpacked(raw, file.packing) as stream:
            if file.packing:
                _skip(stream, end)
            else:
                raw.seek(end)
            if file.format == JSON_LINES:
                yield from _read_lines(file, raw, stream, end, first)
            else:
                yield from _read_text(file, raw, stream, reading, end, first)


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except FolioError:
        raise
    except UnicodeDecodeError as error:
        raise FolioError(f"{path} is not valid UTF-8 ({error.reason}); convert it, or leave it out") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FolioError(f"{path} is damaged: {_in_one_line(error)}; fetch it again, or leave it out") from error
    except OSError as error:
        reason = error.strerror or _in_one_line(error)
        raise FolioError(f"{path} cannot be read: {reason}; mend that, or leave the file out") from error
    except Exception as error:
        # The readers of zstd and Parquet have errors of their own, which are not imported where nobody needs them.
        if type(error).__module__.partition(".")[0] not in ("backports", "compression", "pyarrow"):
            raise
        raise FolioError(f"{path} is damaged: {_in_one_line(error)}; fetch it again, or leave it out") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _unpacked(raw: IO[bytes], packing: str) -> Iterator[IO[bytes]]:
    if packing == ".gz":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]
    elif packing == ".zst":
        with _zstd(Path(raw.name)).ZstdFile(raw) as stream:
            yield stream
    else:
        yield raw


def _zstd(path: Path) -> Any:
    """The reader of Python 3.14, or the same for older ones. Raises: FolioError where it is not installed."""
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise FolioError(f"{path}: .zst needs the package backports.zstd; {INSTALL}") from None
    return zstd


def _skip(stream: IO[bytes], n_bytes: int) -> None:
    while n_bytes and (chunk := stream.read(min(READ_BYTES, n_bytes))):
        n_bytes -= len(chunk)


def _chunks(raw: IO[bytes], stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """What a stream holds, and how many bytes of the file were read for each chunk."""
    before = raw.tell()
    while chunk := stream.read(READ_BYTES):
        now = raw.tell()
        yield chunk, now - before
        before = now


def _read_lines(file: CorpusFile, raw: IO[bytes], stream: IO[bytes], end: int, first: int) -> Iterator[DocumentBlock]:
    rest, n_read = b"", 0
    for chunk, n_new in _chunks(raw, stream):
        rest, n_read = rest + chunk, n_read + n_new
        cut = rest.rfind(b"\n", max(len(rest) - len(chunk), 0)) + 1
        if cut == 0 and len(rest) > LONGEST_LINE:
            raise FolioError(
                f"{file.path}, line {first + rest.count(10)} is longer than {LONGEST_LINE >> 20} MiB; "
                "each line must be a JSON object with one document"
            )
        if cut and len(rest) >= BLOCK_BYTES:
            n_lines = rest.count(b"\n", 0, cut)
            end += cut
            yield DocumentBlock(file, rest[:cut], first, first + n_lines, end, n_read)
            rest, n_read, first = rest[cut:], 0, first + n_lines
    if rest:
        yield DocumentBlock(file, rest, first, first + rest.count(b"\n") + 1, end + len(rest), n_read)


def _read_text(
    file: CorpusFile, raw: IO[bytes], stream: IO[bytes], reading: DocumentFormat, end: int, first: int
) -> Iterator[DocumentBlock]:
    """Whole documents of a text, split at the separator where there is one, and where they are too long."""
    separator = (reading.document_separator or "").encode()
    rest, n_read = b"", 0
    for chunk, n_new in _chunks(raw, stream):
        rest, n_read = rest + chunk, n_read + n_new
        while len(rest) >= DOCUMENT_BYTES + LOOK_FOR_NEWLINE + len(separator):
            documents, left = _whole_documents(rest, separator)
            end += len(rest) - len(left)
            rest = left
            if not documents:  # newlines alone
                break
            yield DocumentBlock(file, documents, first, first + len(documents), end, n_read)
            n_read, first = 0, first + len(documents)
    if rest:
        documents = [part for text in _split(rest, separator) for part in cut_long(text, bool(separator))]
        yield DocumentBlock(file, documents, first, first + len(documents), end + len(rest), n_read)


def _split(text: bytes, separator: bytes) -> list[bytes]:
    return text.split(separator) if separator else [text]


def _whole_documents(text: bytes, separator: bytes) -> tuple[list[bytes], bytes]:
    """The documents that are known to be whole in a text of which more may follow, and the rest of the text.

    From left to right, so that they are the same wherever reading began, if a document did there.
    """
    *whole, rest = _split(text, separator)
    if whole:
        return [part for document in whole for part in cut_long(document, True)], rest
    text = text.lstrip(NEWLINES) if separator else text
    if len(text) < DOCUMENT_BYTES + LOOK_FOR_NEWLINE + len(separator):
        return [], text
    cut = first_cut(text)
    return [text[:cut]], text[cut:]


def cut_long(document: bytes, strip: bool = False) -> Iterator[bytes]:
    """The document in parts of about DOCUMENT_BYTES, of which a shorter one is its own only part.

    `strip`: without the newlines that stand around a separator.
    """
    signs = NEWLINES if strip else b""
    document = document.lstrip(signs)
    while len(document) >= DOCUMENT_BYTES + LOOK_FOR_NEWLINE:
        cut = first_cut(document)
        yield document[:cut]
        document = document[cut:].lstrip(signs)
    if document := document.rstrip(signs):
        yield document


def first_cut(text: bytes) -> int:
    """Behind the first newline from DOCUMENT_BYTES on; where none is near, in front of a character."""
    newline = text.find(b"\n", DOCUMENT_BYTES, DOCUMENT_BYTES + LOOK_FOR_NEWLINE)
    if newline >= 0:
        return newline + 1
    cut = DOCUMENT_BYTES
    while cut > DOCUMENT_BYTES - 4 and text[cut] & 0xC0 == 0x80:  # within a character of UTF-8
        cut -= 1
    return cut


def _read_parquet(file: CorpusFile, reading: DocumentFormat, end: int, first: int) -> Iterator[DocumentBlock]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise FolioError(f"{file.path}: .parquet needs the package pyarrow; {INSTALL}") from None
    # A buffer, so that a column of gigabytes is read as it is needed.
    with parquet.ParquetFile(file.path, buffer_size=READ_BYTES, pre_buffer=False) as table:
        check_field(table.schema_arrow.names, reading.text_field, str(file.path))
        groups = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
        n_rows = 0
        for number, n_in_group in enumerate(groups):
            skipped = max(end - n_rows, 0)
            n_rows += n_in_group
            if skipped < n_in_group:
                share = file.n_bytes / max(sum(groups), 1)
                batches = table.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=[reading.text_field])
                rows = (batch.column(0) for batch in batches)
                yield from row_blocks(file, rows, skipped, n_rows - n_in_group, share)


def check_field(names: list[str], text_field: str, where: str) -> None:
    """Raises: FolioError where there is no such column."""
    if text_field not in names:
        raise FolioError(
            f"{where} has no column data.text_field={text_field}; it has {', '.join(names)[:200]}: name the one that "
            "holds the text"
        )


def row_blocks(file: CorpusFile, columns: Iterator[Any], skip: int, row: int, share: float) -> Iterator[DocumentBlock]:
    """Blocks of the rows of a group, of which `skip` are left out; `row` counts those before the group."""
    rows: list[bytes] = []
    size, first = 0, row + skip + 1
    for column in columns:
        values = column.to_pylist()[skip:] if skip < len(column) else []
        skip = max(skip - len(column), 0)
        row += len(column)
        for number, value in enumerate(values, row - len(values) + 1):
            if value is not None and not isinstance(value, str):
                raise FolioError(f"{file.path}, row {number}: the text is no text but {type(value).__name__}")
            rows.append(b"" if value is None else value.encode("utf-8", "surrogatepass"))
            size += len(rows[-1])
        if rows and size >= BLOCK_BYTES:
            yield DocumentBlock(file, rows, first, row + 1, row, round(share * len(rows)))
            rows, size, first = [], 0, row + 1
    if rows:
        yield DocumentBlock(file, rows, first, row + 1, row, round(share * len(rows)))


def documents_of(block: DocumentBlock, reading: DocumentFormat) -> Iterator[tuple[str, bytes]]:
    """Each document as a text and its UTF-8 bytes; those of white space alone are left out.

    Raises: FolioError with the file and the line, row or document for what is no text.
    """
    if isinstance(block.documents, bytes):
        numbered: Iterator[tuple[int, bytes]] = _from_json(block, reading.text_field)
    else:
        numbered = enumerate(block.documents, block.first)
    what = {TEXT: "document", JSON_LINES: "line", PARQUET: "row"}[block.file.format]
    for number, whole in numbered:
        for part in cut_long(whole):
            where = f"{block.file.path}, {what} {number}"
            if block.file.format == TEXT and b"\0" in part:
                raise FolioError(f"{where} holds a NUL byte, so it is not UTF-8 text; convert it, or leave it out")
            try:
                text = part.decode("utf-8")
            except UnicodeDecodeError as error:
                raise FolioError(
                    f"{where} is not valid UTF-8 ({error.reason}); convert it, for instance with "
                    "iconv -f WINDOWS-1252 -t UTF-8, or leave it out"
                ) from error
            if not text.isspace():
                yield text, part


def _from_json(block: DocumentBlock, text_field: str) -> Iterator[tuple[int, bytes]]:
    assert isinstance(block.documents, bytes)
    parse: Callable[[str], Any] = json.JSONDecoder().decode
    for number, line in enumerate(block.documents.split(b"\n"), block.first):
        where = f"{block.file.path}, line {number}"
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            fields = parse(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise FolioError(f"{where} is not JSON ({_in_one_line(error)}); each line must be a JSON object") from error
        if not isinstance(fields, dict):
            raise FolioError(f'{where} is no JSON object; each line must be one, such as {{"{text_field}": ...}}')
        if text_field not in fields:
            raise FolioError(
                f"{where} has no field data.text_field={text_field}; it has {', '.join(map(str, fields))[:200]}: "
                "name the one that holds the text"
            )
        value = fields[text_field]
        if value is not None and not isinstance(value, str):
            raise FolioError(f"{where}: the field {text_field} holds no text but {type(value).__name__}")
        try:
            yield number, (value or "").encode("utf-8")
        except UnicodeEncodeError as error:
            raise FolioError(
                f"{where}: the field {text_field} holds half of a surrogate pair, which has no UTF-8 form; "
                "mend the line, or leave it out"
            ) from error
