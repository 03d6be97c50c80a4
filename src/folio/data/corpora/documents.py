"""Documents taken out of files, in blocks of some megabytes.

One process reads and decompresses, which is fast, and hands the blocks to others, which parse and encode them. So a
single large file is shared among the processes like many small ones. Memory holds one block and the longest document,
whatever the size of a decompressed file.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from folio.data.corpora.files import JSON_LINES, PARQUET, TEXT, CorpusFile
from folio.data.corpora.json_lines import MAX_LINE_BYTES, parse_line, parse_pair, refuse_array
from folio.data.corpora.parquet_pages import read_footer
from folio.data.corpora.signatures import HEAD_BYTES, UTF8_BOM, recognize
from folio.data.corpora.text_column import TextColumn, text_values
from folio.runtime.commands import quote_for_shell
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import open_regular

READ_BYTES = 1 << 20

BLOCK_BYTES = 1 << 22
"""Approximate amount of text in a block: a second of work."""

MAX_DOCUMENT_BYTES = 1 << 22
"""Size above which a document is cut after the next newline. Each part counts as a document of its own."""

NEWLINE_SEARCH_BYTES = 1 << 16

NEWLINES = b"\r\n"
"""Characters that are stripped from both ends of a document that stands between separators."""

ROWS_PER_BATCH = 256
"""Number of rows read from a Parquet file at a time. Few, because a row can hold megabytes."""

MAX_ROWS_PER_BLOCK = 1 << 16
"""Most rows in a block, because nulls have no size."""

INSTALL = "pip install '.[corpora]'"


@dataclass(frozen=True)
class DocumentFormat:
    """Where the documents are in a file: the field of a JSON line or Parquet row, or the separator in a text.

    With `prompt_field` and `completion_field`, a document is these two fields of a JSON line.
    """

    text_field: str = "text"
    document_separator: str | None = None
    prompt_field: str | None = None
    completion_field: str | None = None

    @property
    def has_prompts(self) -> bool:
        return self.completion_field is not None


class Document(NamedTuple):
    """A parsed document: `text`, or `prompt` followed by `text`; `data` is the UTF-8 of both together."""

    text: str
    data: bytes
    prompt: str | None = None

    @property
    def identity(self) -> bytes:
        """The bytes whose hash decides the split of the document, and whether it is a duplicate."""
        return self.data if self.prompt is None else f"{self.prompt}\0{self.text}".encode()


@dataclass(frozen=True)
class DocumentBlock:
    """Whole documents that are not parsed yet: raw documents of a text or of rows, or whole lines of JSON.

    `first` is the number of the first one in its file, counted from 1: a document, a line or a row; `next` is the
    number of the one after the block. `end` is where the block ends in the decompressed file, in bytes or rows:
    reading can resume there. `n_read` bytes of the file were read for it, and `n_separators` found in it.
    """

    file: CorpusFile
    documents: list[bytes] | bytes
    first: int
    next: int
    end: int
    n_read: int
    n_separators: int = 0

    @property
    def n_bytes(self) -> int:
        return len(self.documents) if isinstance(self.documents, bytes) else sum(map(len, self.documents))


def read_blocks(
    file: CorpusFile, document_format: DocumentFormat, end: int = 0, first: int = 1
) -> Iterator[DocumentBlock]:
    """Yield the blocks of a file, after an earlier block with this `end` and `next`.

    Raises: FolioError, which names the file, if it is damaged or cannot be read.
    """
    n_bytes = 0
    with _file_errors(file.path):
        for block in _blocks(file, document_format, end, first):
            n_bytes += block.n_bytes
            file.check_expansion(n_bytes)
            yield block


def _blocks(file: CorpusFile, document_format: DocumentFormat, end: int, first: int) -> Iterator[DocumentBlock]:
    if file.format == PARQUET:
        yield from _read_parquet(file, document_format, end)
        return
    with open_regular(file.path) as raw, _decompressed(raw, file) as stream:
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
        if "requires too much memory" in str(error):
            raise _long_window(path) from error
        raise FolioError(f"{path} is damaged: {_one_line(error)}; fetch it again, or leave it out") from error


def _long_window(path: Path) -> FolioError:
    """Return the error of a .zst file with a window above 128 MiB, which would stay in memory while it is read."""
    old, new = quote_for_shell(str(path)), quote_for_shell(f"{path}.new")
    return FolioError(
        f"{path} is not damaged, but was packed with zstd --long, and unpacking takes up to 2 GiB of memory; repack "
        f"it: zstd -dc --long=31 {old} | zstd -o {new} && mv {new} {old}"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _decompressed(raw: IO[bytes], file: CorpusFile) -> Iterator[IO[bytes]]:
    if file.compression == ".gz":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]
    elif file.compression == ".zst":
        with _import_zstd(file.path).ZstdFile(raw) as stream:
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
            if first == 1 and rest.lstrip().startswith(b"["):
                refuse_array(file.path)
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
        if end == 0 and not rest and chunk.startswith(UTF8_BOM):
            chunk, end = chunk.removeprefix(UTF8_BOM), len(UTF8_BOM)
        rest, n_read = rest + chunk, n_read + n_new
        while len(rest) >= MAX_DOCUMENT_BYTES + NEWLINE_SEARCH_BYTES + len(separator):
            documents, left, n_separators = _whole_documents(rest, separator)
            end += len(rest) - len(left)
            rest = left
            if not documents:  # only newlines
                break
            yield DocumentBlock(file, documents, first, first + len(documents), end, n_read, n_separators)
            n_read, first = 0, first + len(documents)
    if rest:
        texts = _split(rest, separator)
        documents = [part for text in texts for part in _cut_long(text, bool(separator))]
        yield DocumentBlock(file, documents, first, first + len(documents), end + len(rest), n_read, len(texts) - 1)


def _split(text: bytes, separator: bytes) -> list[bytes]:
    return text.split(separator) if separator else [text]


def _whole_documents(text: bytes, separator: bytes) -> tuple[list[bytes], bytes, int]:
    """Return the documents that are certainly complete in a text of which more may follow.

    Also returns the rest of the text, and the number of separators before it.

    Works from left to right, so that the documents are the same after any document at which reading resumed.
    """
    *whole, rest = _split(text, separator)
    if whole:
        return [part for document in whole for part in _cut_long(document, True)], rest, len(whole)
    text = text.lstrip(NEWLINES) if separator else text
    if len(text) < MAX_DOCUMENT_BYTES + NEWLINE_SEARCH_BYTES + len(separator):
        return [], text, 0
    cut = _first_cut(text)
    return [text[:cut]], text[cut:], 0


def _cut_long(document: bytes, strip: bool = False) -> Iterator[bytes]:
    """Yield the document in parts of about MAX_DOCUMENT_BYTES; a shorter one is a single part.

    `strip` removes the newlines beside a separator.
    """
    stripped = NEWLINES if strip else b""
    first = 0  # instead of the rest as a copy, which would be made for each part
    while True:
        while stripped and document[first : first + 1] in (b"\n", b"\r"):
            first += 1
        if len(document) - first < MAX_DOCUMENT_BYTES + NEWLINE_SEARCH_BYTES:
            break
        cut = _first_cut(document, first)
        yield document[first:cut]
        first = cut
    if part := document[first:].rstrip(stripped):
        yield part


def _first_cut(text: bytes, first: int = 0) -> int:
    """Return where a document that begins at `first` is cut.

    That is after the first newline from MAX_DOCUMENT_BYTES on, or before a character if none is near.
    """
    cut = first + MAX_DOCUMENT_BYTES
    newline = text.find(b"\n", cut, cut + NEWLINE_SEARCH_BYTES)
    if newline >= 0:
        return newline + 1
    earliest = cut - 4
    while cut > earliest and text[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
        cut -= 1
    return cut


def _read_parquet(file: CorpusFile, document_format: DocumentFormat, end: int) -> Iterator[DocumentBlock]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise FolioError(f"{file.path}: .parquet needs the package pyarrow; {INSTALL}") from None
    row_groups = read_footer(file.path)
    # Buffered, so that a column of gigabytes is read as it is needed.
    with parquet.ParquetFile(file.path, buffer_size=READ_BYTES, pre_buffer=False) as table:
        column = TextColumn.find(table, row_groups, document_format.text_field, file)
        bytes_per_row = file.n_bytes / max(sum(group.n_rows for group in row_groups), 1)
        n_rows = 0
        for number, group in enumerate(row_groups):
            n_skipped = max(end - n_rows, 0)
            n_rows += group.n_rows
            if n_skipped < group.n_rows:
                batches = column.read(number, ROWS_PER_BATCH)
                yield from row_blocks(file, batches, n_skipped, n_rows - group.n_rows, bytes_per_row)


def row_blocks(
    file: CorpusFile, columns: Iterator[Any], n_skipped: int, n_before: int, bytes_per_row: float
) -> Iterator[DocumentBlock]:
    """Yield blocks of Arrow columns, without the first `n_skipped` rows. `n_before` rows of the file precede them."""
    rows: list[bytes] = []
    size, n_done, first = 0, n_before, n_before + n_skipped + 1

    def block() -> DocumentBlock:
        return DocumentBlock(file, rows, first, n_done + 1, n_done, round(bytes_per_row * len(rows)))

    for column in columns:
        values = text_values(column, file.path, n_done + 1)[n_skipped:] if n_skipped < len(column) else []
        n_skipped = max(n_skipped - len(column), 0)
        n_done += len(column)
        rows += values
        size += sum(map(len, values))
        if rows and (size >= BLOCK_BYTES or len(rows) >= MAX_ROWS_PER_BLOCK):
            yield block()
            rows, size, first = [], 0, n_done + 1
    if rows:
        yield block()


def parse_documents(block: DocumentBlock, document_format: DocumentFormat) -> Iterator[Document]:
    """Yield each document. Those that are only white space are left out.

    Raises: FolioError with the file and the line, row or document that is not text.
    """
    if document_format.has_prompts:
        yield from _parse_pairs(block, document_format)
        return
    numbered: Iterator[tuple[int, bytes]]
    if isinstance(block.documents, bytes):
        numbered = _parse_lines(block, document_format.text_field)
    else:
        numbered = enumerate(block.documents, block.first)
    kind = {TEXT: "document", JSON_LINES: "line", PARQUET: "row"}[block.file.format]
    for number, whole in numbered:
        for part in _cut_long(whole):
            text = _decode(part, f"{block.file.path}, {kind} {number}", block, number)
            if not text.isspace():
                yield Document(text, part)


def _parse_pairs(block: DocumentBlock, document_format: DocumentFormat) -> Iterator[Document]:
    """Yield prompts with their completions. None is cut, because a part would lack its prompt."""
    prompt_field, completion_field = document_format.prompt_field, document_format.completion_field
    assert isinstance(block.documents, bytes)
    assert prompt_field is not None
    assert completion_field is not None
    for number, line in enumerate(block.documents.split(b"\n"), block.first):
        pair = parse_pair(line, number, prompt_field, completion_field, block.file.path)
        if pair is None:
            continue
        prompt, completion = pair
        if len(prompt) + len(completion) > MAX_DOCUMENT_BYTES:
            raise FolioError(
                f"{block.file.path}, line {number}: prompt and completion have more than {MAX_DOCUMENT_BYTES >> 20} "
                "MiB; shorten them, or leave the line out"
            )
        if not (prompt + completion).isspace():
            yield Document(completion.decode(), prompt + completion, prompt.decode())


def _parse_lines(block: DocumentBlock, text_field: str) -> Iterator[tuple[int, bytes]]:
    assert isinstance(block.documents, bytes)
    for number, line in enumerate(block.documents.split(b"\n"), block.first):
        document = parse_line(line, number, text_field, block.file.path)
        if document is not None:
            yield number, document


def _decode(document: bytes, where: str, block: DocumentBlock, number: int) -> str:
    """Raises: FolioError if a document is not UTF-8 text."""
    is_text = block.file.format == TEXT
    try:
        if not is_text or b"\0" not in document:
            return document.decode("utf-8")
        problem = "holds a NUL byte, so it is not UTF-8 text; convert it, or leave it out"
    except UnicodeDecodeError as error:
        problem = (
            f"is not valid UTF-8 ({error.reason}); convert it, for instance with iconv -f WINDOWS-1252 -t UTF-8, or "
            "leave it out"
        )
    if is_text and number == 1 and (known := recognize(document[:HEAD_BYTES])):
        raise FolioError(f"{block.file.path} {known}")
    raise FolioError(f"{where} {problem}")
