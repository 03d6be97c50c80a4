"""How much memory a Parquet file takes to read, known before anything in it is decoded.

A page of some bytes can unpack to gigabytes, and a footer of some kilobytes can describe millions of columns. pyarrow
allocates what they declare, and has no limit for pages. So the footer and the headers of pages are read here first, as
plain Thrift. https://parquet.apache.org/docs/file-format and parquet.thrift name the fields by the numbers below.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from folio.data.corpora.thrift import BINARY, I32, I64, STRUCT, Field, ThriftError, ThriftReader, list_of
from folio.runtime.untrusted import MIB, open_regular, refuse

T = TypeVar("T")

MAGIC = b"PAR1"

MAX_FOOTER_BYTES = 16 * MIB

MIN_FOOTER_ITEMS, MAX_ITEMS_PER_BYTE = 200_000, 1 / 16
"""A footer may list so many columns of row groups and parts of them, or so many for each byte of its file. A column has
about eight parts; pyarrow takes up to 600 bytes for one."""

MAX_SCHEMA_DEPTH = 64
"""Limit for the nesting of columns, which pyarrow reads by recursion."""

MAX_PAGE_BYTES, MAX_PAGE_EXPANSION = 32 * MIB, 16
"""A page may unpack to this much, or to this multiple of its size. Writers aim at 1 MiB, but pyarrow puts at least
1,024 documents into a page, which can be books."""

MAX_HEADER_BYTES, MAX_HEADER_ITEMS = 1 * MIB, 1000

LEAVE_OUT = "fetch it again, or leave it out"

_FILE_SCHEMA, _FILE_ROW_GROUPS = (2, list_of(STRUCT)), (4, list_of(STRUCT))
_NUM_CHILDREN = (5, I32)
_GROUP_COLUMNS, _GROUP_NUM_ROWS = (1, list_of(STRUCT)), (3, I64)
_CHUNK_METADATA, _CHUNK_ENCRYPTION = (3, STRUCT), (8, STRUCT)
_CHUNK_NUM_VALUES, _CHUNK_BYTES, _CHUNK_DATA, _CHUNK_DICTIONARY = (5, I64), (7, I64), (9, I64), (11, I64)
_CHUNK_SIZES, _CHUNK_PLACES = (16, STRUCT), (17, STRUCT)
_FILE_LISTS, _GROUP_LISTS = {2: STRUCT, 4: STRUCT, 5: STRUCT, 7: STRUCT}, {1: STRUCT, 4: STRUCT}
_CHUNK_LISTS, _SIZES_LISTS, _PLACES_LISTS = {2: I32, 3: BINARY, 8: STRUCT, 13: STRUCT}, {2: I64, 3: I64}, {2: I32}
"""Types of the items in lists, by the number of the field. pyarrow expects them whatever the file says."""
_PAGE_TYPE, _PAGE_UNCOMPRESSED, _PAGE_COMPRESSED = (1, I32), (2, I32), (3, I32)
_NUM_VALUES = (1, I32)
_DELTA_BYTE_ARRAY = 7
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_HEADERS = {_DATA: (5, STRUCT), _DICTIONARY: (7, STRUCT), _DATA_V2: (8, STRUCT)}
"""Part of a page's header, by the type of the page."""
_ENCODINGS = {_DATA: (2, I32), _DICTIONARY: (2, I32), _DATA_V2: (4, I32)}


@dataclass(frozen=True)
class ColumnChunk:
    """Where the pages of one column in one row group are, as the footer says."""

    n_values: int
    n_bytes: int
    start: int


@dataclass(frozen=True)
class RowGroup:
    """The rows of a row group, and its columns in the order of the file."""

    n_rows: int
    columns: list[ColumnChunk]


def read_footer(path: Path) -> list[RowGroup]:
    """Return the row groups of a file.

    They are read here rather than by pyarrow, which ends the process at some damaged footers.

    Raises: UntrustedFileError if the file has no footer, or one that describes absurdly much; OSError.
    """
    with open_regular(path) as file:
        n_bytes = file.seek(0, 2)
        file.seek(max(n_bytes - 8, 0))
        end = file.read(8)
        n_footer = int.from_bytes(end[:4], "little")
        if end[4:] == b"PARE":
            refuse(path, "is encrypted", "decrypt it, or leave it out")
        if n_bytes < 12 or end[4:] != MAGIC or n_footer > n_bytes - 12:
            refuse(path, "is damaged: it does not end with the footer of a Parquet file", LEAVE_OUT)
        if n_footer > MAX_FOOTER_BYTES:
            refuse(
                path,
                f"has a footer of {n_footer:,} bytes, and Folio reads at most {MAX_FOOTER_BYTES:,}",
                "write it again with fewer columns and larger row groups",
            )
        file.seek(n_bytes - 8 - n_footer)
        footer = file.read(n_footer)
    groups: list[RowGroup] = []
    try:
        for field, value in ThriftReader(footer, max(MIN_FOOTER_ITEMS, int(n_bytes * MAX_ITEMS_PER_BYTE))).struct():
            _check_lists([field], _FILE_LISTS)
            if field == _FILE_SCHEMA:
                _check_depth(_as(list, value))
            elif field == _FILE_ROW_GROUPS:
                groups = [_row_group(group) for group in _as(list, value)]
    except ThriftError as error:
        refuse(path, f"has a footer that cannot be read: {error}", LEAVE_OUT)
    return groups


def _row_group(group: Any) -> RowGroup:
    fields = _as(dict, group)
    _check_lists(fields, _GROUP_LISTS)
    return RowGroup(
        _as(int, fields.get(_GROUP_NUM_ROWS)), [_chunk(chunk) for chunk in _as(list, fields.get(_GROUP_COLUMNS))]
    )


def _chunk(chunk: Any) -> ColumnChunk:
    if _CHUNK_ENCRYPTION in _as(dict, chunk):
        raise ThriftError("it is encrypted")
    fields = _as(dict, chunk.get(_CHUNK_METADATA))
    _check_lists(fields, _CHUNK_LISTS)
    _check_lists(fields.get(_CHUNK_SIZES, ()), _SIZES_LISTS)
    _check_lists(fields.get(_CHUNK_PLACES, ()), _PLACES_LISTS)
    data, dictionary = _as(int, fields.get(_CHUNK_DATA)), fields.get(_CHUNK_DICTIONARY)
    # As pyarrow decides it: an offset of 0 is what some writers put for none.
    start = dictionary if isinstance(dictionary, int) and 0 < dictionary < data else data
    return ColumnChunk(_as(int, fields.get(_CHUNK_NUM_VALUES)), _as(int, fields.get(_CHUNK_BYTES)), start)


def _check_lists(fields: Iterable[Field], expected: dict[int, int]) -> None:
    """Raises: ThriftError for a list of other items than expected, after which pyarrow would read something else."""
    for number, kind in fields:
        if number in expected and kind & 15 == list_of(0):
            # An empty list may have no type, and integers of 32 and 64 bits have one form: fastparquet writes both.
            alike = {list_of(I32), list_of(I64)} if expected[number] in (I32, I64) else {list_of(expected[number])}
            if kind not in alike | {list_of(0)}:
                raise ThriftError("a list holds another type than it must")


def _as(kind: type[T], value: Any) -> T:
    """Return the value. Raises: ThriftError if it is missing, or of another type."""
    if not isinstance(value, kind):
        raise ThriftError("a field is missing, or of another type")
    return value


def _check_depth(schema: list[Any]) -> None:
    """Check the nesting of a schema, which lists the columns of each group after it."""
    open_groups: list[int] = []  # number of columns that each still lacks
    for element in schema:
        while open_groups and open_groups[-1] == 0:
            open_groups.pop()
        if open_groups:
            open_groups[-1] -= 1
        n_children = element.get(_NUM_CHILDREN) if isinstance(element, dict) else None
        if isinstance(n_children, int) and n_children > 0:
            open_groups.append(n_children)
        if len(open_groups) > MAX_SCHEMA_DEPTH:
            raise ThriftError(f"columns are nested more than {MAX_SCHEMA_DEPTH} levels deep")


@dataclass(frozen=True)
class Page:
    """Fields of the header of a page."""

    n_packed: int
    n_unpacked: int
    n_values: int
    """Number of values and nulls; 0 for a dictionary."""
    repeats: bool
    """Whether values can be made of the same bytes: those of a dictionary, or of the values before."""
    end: int


def read_pages(path: Path, chunk: ColumnChunk) -> Iterator[Page]:
    """Yield the pages of a column in a row group, without unpacking them.

    Raises: UntrustedFileError if a page is too large, or the pages do not hold the chunk's values; OSError.
    """
    with open_regular(path) as file:
        end = chunk.start + chunk.n_bytes
        if chunk.start < len(MAGIC) or chunk.n_bytes < 0 or end > file.seek(0, 2):
            refuse(path, "is damaged: a column lies outside the file", LEAVE_OUT)
        position, n_found = chunk.start, 0
        while n_found < chunk.n_values:
            try:
                page = _read_page_header(file, position, end)
                if page.n_values == 0 and position > chunk.start:  # only a dictionary has none, and comes first
                    raise ThriftError("it has no values")
            except ThriftError as error:
                refuse(path, f"is damaged: the page at byte {position} cannot be read: {error}", LEAVE_OUT)
            if page.n_unpacked > max(MAX_PAGE_BYTES, MAX_PAGE_EXPANSION * page.n_packed):
                refuse(
                    path,
                    f"has a page that unpacks from {page.n_packed:,} to {page.n_unpacked:,} bytes, and Folio reads at "
                    f"most {MAX_PAGE_BYTES:,}, or {MAX_PAGE_EXPANSION} times its size",
                    "write it again with smaller pages (pyarrow.parquet.write_table(table, path, write_batch_size=1, "
                    "use_dictionary=False)), or as JSON lines",
                )
            n_found += page.n_values
            position = page.end
            yield page


def rows_at_a_time(pages: list[Page], n_bytes: int) -> int:
    """Return the number of rows of a column that can be unpacked to about `n_bytes`, or to three pages."""
    # A repeated value is as long as its page at most, and each row can hold the longest.
    repeated = max((page.n_unpacked for page in pages if page.repeats), default=1)
    # So many rows touch at most two pages, and the last, which may be short.
    fewest = min((page.n_values for page in pages[:-1] if page.n_values), default=n_bytes)
    return max(1, min(fewest, n_bytes // max(repeated, 1)))


def _read_page_header(file: BinaryIO, position: int, end: int) -> Page:
    """Raises: ThriftError if it is inconsistent, or its page does not end before `end`."""
    n_read = 1 << 10
    while True:
        file.seek(position)
        reader = ThriftReader(file.read(min(n_read, end - position)), MAX_HEADER_ITEMS)
        try:
            fields = dict(reader.struct())
            break
        except ThriftError:
            if n_read >= min(MAX_HEADER_BYTES, end - position):
                raise
            n_read *= 8  # statistics can be long
    n_unpacked, n_packed = (_as(int, fields.get(field)) for field in (_PAGE_UNCOMPRESSED, _PAGE_COMPRESSED))
    kind = _as(int, fields.get(_PAGE_TYPE))
    if kind not in _HEADERS:
        raise ThriftError(f"unknown type {kind}")
    details = _as(dict, fields.get(_HEADERS[kind]))
    n_values, encoding = _as(int, details.get(_NUM_VALUES)), _as(int, details.get(_ENCODINGS[kind]))
    first = position + reader.position
    if n_unpacked < 0 or n_values < 0 or not 0 <= n_packed <= end - first:
        raise ThriftError("it is longer than its column, or has a size below 0")
    if kind == _DICTIONARY:
        # Each text has a length of four bytes. pyarrow allocates 16 bytes for each.
        if n_values > n_unpacked // 4:
            raise ThriftError("its dictionary declares more entries than it has bytes for")
        return Page(n_packed, n_unpacked, 0, True, first + n_packed)
    return Page(n_packed, n_unpacked, n_values, encoding == _DELTA_BYTE_ARRAY, first + n_packed)
