"""The column of an Arrow or Parquet table that holds the text: found by name, and read in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from folio.data.corpora.files import CorpusFile
from folio.data.corpora.parquet_pages import RowGroup, read_pages, rows_at_a_time
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import shown

BATCH_BYTES = 1 << 24
"""Most text that is decoded at a time, unless a single document is longer."""

MIN_ROWS, MAX_ROWS_PER_BYTE = 1 << 20, 100
"""A file may declare this many rows, or this many for each of its bytes: nulls and repeated values take almost none."""


@dataclass
class TextColumn:
    """The leaf columns of a Parquet file that `data.text_field` can mean, of which one holds the text.

    Several only if a flat column has a dot in its name where a nested one has a level. The flat one is read.
    """

    table: Any
    file: CorpusFile
    text_field: str
    row_groups: list[RowGroup]
    leaves: tuple[int, ...]
    n_unpacked: int = field(default=0, init=False)
    """Number of bytes in the pages that were read so far."""

    @classmethod
    def find(cls, table: Any, row_groups: list[RowGroup], text_field: str, file: CorpusFile) -> "TextColumn":
        """Raises: FolioError if there is no such column, or it cannot hold one text in each row."""
        path = file.path
        schema = table.metadata.schema
        columns = [schema.column(number) for number in range(len(schema))]
        names = [column.path for column in columns]
        leaves = tuple(number for number, name in enumerate(names) if name == text_field)
        parts = [column for column in columns if column.path.startswith(f"{text_field}.")]
        which = f"{path}: the column data.text_field={text_field}"
        if parts and all(column.max_repetition_level for column in parts):
            raise FolioError(f"{which} holds lists; name one that holds text")
        if parts:
            raise FolioError(f"{which} has parts; name one, as in data.text_field={parts[0].path}")
        if not leaves:
            check_text_field(names, text_field, str(path))
        for number in leaves:
            column = columns[number]
            is_null = column.logical_type.type in ("NULL", "UNKNOWN")
            if column.max_repetition_level or not (column.physical_type == "BYTE_ARRAY" or is_null):
                kind = "lists" if column.max_repetition_level else column.physical_type
                raise FolioError(f"{which} holds {kind}, not text; name the one that does")
        n_rows = sum(group.n_rows for group in row_groups)
        if n_rows > max(MIN_ROWS, MAX_ROWS_PER_BYTE * file.n_bytes):
            raise FolioError(
                f"{path} declares {n_rows:,} rows in {file.n_bytes:,} bytes; fetch it again, or leave it out"
            )
        return cls(table, file, text_field, row_groups, leaves)

    def read(self, number: int, max_rows: int) -> Iterator[Any]:
        """Yield the column of a row group as Arrow arrays. Raises: FolioError for one that unpacks to too much."""
        n_in_batch = min(max_rows, *(self._rows_at_a_time(number, leaf) for leaf in self.leaves))
        for batch in self.table.iter_batches(n_in_batch, row_groups=[number], columns=[self.text_field]):
            yield _select(batch, self.text_field)

    def _rows_at_a_time(self, number: int, leaf: int) -> int:
        group = self.row_groups[number]
        n_values = group.columns[leaf].n_values if leaf < len(group.columns) else 0
        if n_values != group.n_rows:
            raise FolioError(
                f"{self.file.path} is damaged: row group {number + 1} declares {group.n_rows:,} rows, and its column "
                f"{self.text_field} {n_values:,} values; fetch it again, or leave it out"
            )
        pages = list(read_pages(self.file.path, group.columns[leaf]))
        self.n_unpacked += sum(page.n_unpacked for page in pages)
        self.file.check_expansion(self.n_unpacked)
        return rows_at_a_time(pages, BATCH_BYTES)


def _select(batch: Any, name: str) -> Any:
    """Return the column of this name; nested ones are joined by dots."""
    import pyarrow.compute as compute

    names = batch.schema.names
    if name in names:
        return batch.column(names.index(name))
    outer = next(outer for outer in names if name.startswith(f"{outer}."))
    column = batch.column(names.index(outer))
    while name := name.removeprefix(f"{outer}."):
        fields = [column.type.field(number).name for number in range(column.type.num_fields)]
        outer = next(field for field in fields if name == field or name.startswith(f"{field}."))
        column = compute.struct_field(column, [fields.index(outer)])
        if outer == name:
            break
    return column


def check_text_field(names: list[str], text_field: str, where: str) -> None:
    """Raises: FolioError if there is no such column."""
    if text_field not in names:
        found = shown(" ".join(", ".join(dict.fromkeys(names)).split()))
        raise FolioError(
            f"{where} has no column data.text_field={text_field}; it has {found}: name the one that holds the text"
        )


def text_values(column: Any, path: Path, first: int) -> list[bytes]:
    """Return the UTF-8 of an Arrow column; a null is empty. `first` is the number of its first row.

    Raises: FolioError unless the column holds text, as strings or as bytes.
    """
    import pyarrow

    is_in, types = pyarrow.types, column.type
    if is_in.is_dictionary(types):
        column = column.dictionary_decode() if isinstance(column, pyarrow.Array) else column.combine_chunks()
        types = column.type
    if is_in.is_null(types):
        return [b""] * len(column)
    # Not decoded here: the document is, and then an error names its row.
    if is_in.is_string(types):
        column = column.cast(pyarrow.binary())
    elif is_in.is_large_string(types):
        column = column.cast(pyarrow.large_binary())
    elif is_in.is_string_view(types):
        column = column.cast(pyarrow.binary_view())
    elif not (is_in.is_binary(types) or is_in.is_large_binary(types) or is_in.is_binary_view(types)):
        raise FolioError(f"{path}, row {first}: the text is not a string but {types}"[:300])
    return [value or b"" for value in column.to_pylist()]
