"""Documents taken out of files, in blocks of some megabytes.

One process reads and decompresses, which is fast, and hands the blocks to others, which parse and encode them. So a
single large file is shared among the processes like many small ones. Memory holds one block and the longest document,
whatever the size of a decompressed file.
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
"""Approximate amount of text in a block: a second of work."""

MAX_DOCUMENT_BYTES = 1 << 22
"""Size above which a document is cut after the next newline. Each part counts as a document of its own."""

NEWLINE_SEARCH_BYTES = 1 << 16

NEWLINES = b"\r\n"
"""Characters that are stripped from both ends of a document that stands between separators."""

MAX_LINE_BYTES = 1 << 26
"""Longest line of a JSON lines file."""

ROWS_PER_BATCH = 256
"""Number of rows read from a Parquet file at a time. Few, because a row can hold megabytes."""

INSTALL = "pip install '.[corpora]'"


@dataclass(frozen=True)
class DocumentFormat:
    """Where the documents are in a file: the field of a JSON line or Parquet row, or the separator in a text."""

    text_field: str = "text"
    document_separator: str | None = None


@dataclass(frozen=True)
class DocumentBlock:
    """Whole documents that are not parsed yet: raw documents of a text or of rows, or whole lines of JSON.

    `first` is the number of the first one in its file, counted from 1: a document, a line or a row; `next` is the
    number of the one after the block. `end` is where the block ends in the decompressed file, in bytes or rows:
    reading can resume there. `n_read` bytes of the file were read for it.
    """

    file: CorpusFile
    documents: list[bytes] | bytes
    first: int
    next: int
    end: int
    n_read: int

    @property
    def n_bytes(self) -> int:
        return len(self.documents) if isinstance(self.documents, bytes) else sum(map(len, self.documents))


def read_blocks(
    file: CorpusFile, document_format: DocumentFormat, end: int = 0, first: int = 1
) -> Iterator[DocumentBlock]:
    """Yield the blocks of a file, after an earlier block with this `end` and `next`.

    Raises: FolioError, which names the file, if it is damaged or cannot be read.
    """
    with _file_errors(file.path):
        if file.format == PARQUET:
            yield from _read_parquet(file, document_format, end, first)
            return
        with open(file.path, "rb") as raw, _decompressed(raw, file.compression) as stream:
            if file.compression:
                _skip(stream, end)
            else:
                raw.seek(end)
            if file.format == JSON_LINES:
                yield from _read_lines(file, raw, stream, end, first)
            else:
                yield from _read_text(file, raw, stream, document_format, end, first)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FolioError:
        raise
    except UnicodeDecodeError as error:
        raise FolioError(f"{path} is not valid UTF-8 ({error.reason}); convert it, or leave it out") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FolioError(f"{path} is damaged: {_one_line(error)}; fetch it again, or leave it out") from error
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise FolioError(f"{path} cannot be read: {reason}; fix that, or leave the file out") from error
    except Exception as error:
        # The readers of zstd and Parquet have exceptions of their own, and are only imported if a file needs them.
        if type(error).__module__.partition(".")[0] not in ("backports", "compression", "pyarrow"):
            raise
        raise FolioError(f"{path} is damaged: {_one_line(error)}; fetch it again, or leave it out") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _decompressed(raw: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    if compression == ".gz":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]
    elif compression == ".zst":
        with _import_zstd(Path(raw.name)).ZstdFile(raw) as stream:
            yield stream
    else:
        yield raw


def _import_zstd(path: Path) -> Any:
    """Import the module of Python 3.14, or its backport. Raises: FolioError if that is not installed."""
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
    """Yield the content of a stream in chunks, and how many bytes of the file were read for each."""
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
        if cut == 0 and len(rest) > MAX_LINE_BYTES:
            raise FolioError(
                f"{file.path}, line {first + rest.count(10)} is longer than {MAX_LINE_BYTES >> 20} MiB; "
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
    file: CorpusFile, raw: IO[bytes], stream: IO[bytes], document_format: DocumentFormat, end: int, first: int
) -> Iterator[DocumentBlock]:
    """Yield whole documents of a text, split at the separator if there is one, and where they are too long."""
    separator = (document_format.document_separator or "").encode()
    rest, n_read = b"", 0
    for chunk, n_new in _chunks(raw, stream):
        rest, n_read = rest + chunk, n_read + n_new
        while len(rest) >= MAX_DOCUMENT_BYTES + NEWLINE_SEARCH_BYTES + len(separator):
            documents, left = _whole_documents(rest, separator)
            end += len(rest) - len(left)
            rest = left
            if not documents:  # only newlines
                break
            yield DocumentBlock(file, documents, first, first + len(documents), end, n_read)
            n_read, first = 0, first + len(documents)
    if rest:
        documents = [part for text in _split(rest, separator) for part in _cut_long(text, bool(separator))]
        yield DocumentBlock(file, documents, first, first + len(documents), end + len(rest), n_read)


def _split(text: bytes, separator: bytes) -> list[bytes]:
    return text.split(separator) if separator else [text]


def _whole_documents(text: bytes, separator: bytes) -> tuple[list[bytes], bytes]:
    """Return the documents that are certainly complete in a text of which more may follow, and the rest of the text.

    Works from left to right, so that the documents are the same after any document at which reading resumed.
    """
    *whole, rest = _split(text, separator)
    if whole:
        return [part for document in whole for part in _cut_long(document, True)], rest
    text = text.lstrip(NEWLINES) if separator else text
    if len(text) < MAX_DOCUMENT_BYTES + NEWLINE_SEARCH_BYTES + len(separator):
        return [], text
    cut = _first_cut(text)
    return [text[:cut]], text[cut:]


def _cut_long(document: bytes, strip: bool = False) -> Iterator[bytes]:
    """Yield the document in parts of about MAX_DOCUMENT_BYTES; a shorter one is a single part.

    `strip` removes the newlines beside a separator.
    """
    stripped = NEWLINES if strip else b""
    document = document.lstrip(stripped)
    while len(document) >= MAX_DOCUMENT_BYTES + NEWLINE_SEARCH_BYTES:
        cut = _first_cut(document)
        yield document[:cut]
        document = document[cut:].lstrip(stripped)
    if document := document.rstrip(stripped):
        yield document


def _first_cut(text: bytes) -> int:
    """Return the position after the first newline from MAX_DOCUMENT_BYTES on, or before a character if none is near."""
    newline = text.find(b"\n", MAX_DOCUMENT_BYTES, MAX_DOCUMENT_BYTES + NEWLINE_SEARCH_BYTES)
    if newline >= 0:
        return newline + 1
    cut = MAX_DOCUMENT_BYTES
    while cut > MAX_DOCUMENT_BYTES - 4 and text[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
        cut -= 1
    return cut


def _read_parquet(file: CorpusFile, document_format: DocumentFormat, end: int, first: int) -> Iterator[DocumentBlock]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise FolioError(f"{file.path}: .parquet needs the package pyarrow; {INSTALL}") from None
    # Buffered, so that a column of gigabytes is read as it is needed.
    with parquet.ParquetFile(file.path, buffer_size=READ_BYTES, pre_buffer=False) as table:
        text_field = document_format.text_field
        check_text_field(table.schema_arrow.names, text_field, str(file.path))
        group_sizes = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
        bytes_per_row = file.n_bytes / max(sum(group_sizes), 1)
        n_rows = 0
        for number, n_in_group in enumerate(group_sizes):
            n_skipped = max(end - n_rows, 0)
            n_rows += n_in_group
            if n_skipped < n_in_group:
                batches = table.iter_batches(ROWS_PER_BATCH, row_groups=[number], columns=[text_field])
                columns = (batch.column(0) for batch in batches)
                yield from row_blocks(file, columns, n_skipped, n_rows - n_in_group, bytes_per_row)


def check_text_field(names: list[str], text_field: str, where: str) -> None:
    """Raises: FolioError if there is no such column."""
    if text_field not in names:
        raise FolioError(
            f"{where} has no column data.text_field={text_field}; it has {', '.join(names)[:200]}: name the one that "
            "holds the text"
        )


def row_blocks(
    file: CorpusFile, columns: Iterator[Any], n_skipped: int, n_before: int, bytes_per_row: float
) -> Iterator[DocumentBlock]:
    """Yield blocks of Arrow columns, without the first `n_skipped` rows. `n_before` rows of the file precede them."""
    rows: list[bytes] = []
    size, n_done, first = 0, n_before, n_before + n_skipped + 1

    def block() -> DocumentBlock:
        return DocumentBlock(file, rows, first, n_done + 1, n_done, round(bytes_per_row * len(rows)))

    for column in columns:
        values = column.to_pylist()[n_skipped:] if n_skipped < len(column) else []
        n_skipped = max(n_skipped - len(column), 0)
        n_done += len(column)
        for number, value in enumerate(values, n_done - len(values) + 1):
            if value is not None and not isinstance(value, str):
                raise FolioError(f"{file.path}, row {number}: the text is not a string but {type(value).__name__}")
            rows.append(b"" if value is None else value.encode("utf-8", "surrogatepass"))
            size += len(rows[-1])
        if rows and size >= BLOCK_BYTES:
            yield block()
            rows, size, first = [], 0, n_done + 1
    if rows:
        yield block()


def parse_documents(block: DocumentBlock, document_format: DocumentFormat) -> Iterator[tuple[str, bytes]]:
    """Yield each document as a string and as UTF-8 bytes. Documents that are only white space are left out.

    Raises: FolioError with the file and the line, row or document that is not text.
    """
    if isinstance(block.documents, bytes):
        numbered: Iterator[tuple[int, bytes]] = _parse_json(block, document_format.text_field)
    else:
        numbered = enumerate(block.documents, block.first)
    kind = {TEXT: "document", JSON_LINES: "line", PARQUET: "row"}[block.file.format]
    for number, whole in numbered:
        for part in _cut_long(whole):
            where = f"{block.file.path}, {kind} {number}"
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


def _parse_json(block: DocumentBlock, text_field: str) -> Iterator[tuple[int, bytes]]:
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
            raise FolioError(f"{where} is not JSON ({_one_line(error)}); each line must be a JSON object") from error
        if not isinstance(fields, dict):
            raise FolioError(f'{where} is not a JSON object; each line must be one, such as {{"{text_field}": ...}}')
        if text_field not in fields:
            raise FolioError(
                f"{where} has no field data.text_field={text_field}; it has {', '.join(map(str, fields))[:200]}: "
                "name the one that holds the text"
            )
        value = fields[text_field]
        if value is not None and not isinstance(value, str):
            raise FolioError(f"{where}: the field {text_field} holds not a string but {type(value).__name__}")
        try:
            yield number, (value or "").encode("utf-8")
        except UnicodeEncodeError as error:
            raise FolioError(
                f"{where}: the field {text_field} holds half of a surrogate pair, which has no UTF-8 form; "
                "fix the line, or leave it out"
            ) from error
