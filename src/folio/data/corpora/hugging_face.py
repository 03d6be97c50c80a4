"""data=huggingface: a dataset of the Hugging Face Hub, or a folder of files, through the library `datasets`."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from folio.data.corpora.document_corpus import CorpusPart, DocumentCorpus
from folio.data.corpora.documents import ROWS_PER_BATCH, row_blocks
from folio.data.corpora.files import PARQUET, CorpusFile, folder_sha256
from folio.data.corpora.tasks import PositionedBlock, ReadPosition
from folio.data.corpora.text_column import check_text_field
from folio.runtime.errors import FolioError

INSTALL = "pip install '.[huggingface]'"


@dataclass(frozen=True, kw_only=True)
class HuggingFaceDataset(DocumentCorpus):
    """A dataset by its name on the Hub, or a folder that `datasets` can load.

    A prepared dataset is reused without asking the Hub. To prepare a newer one, give its `revision`.
    """

    subset: str | None = None
    split: str = "train"
    revision: str | None = None

    @property
    def kind_and_name(self) -> tuple[str, str]:
        name = str(Path(self.path).absolute()) if Path(self.path).is_dir() else self.path
        return "huggingface", " ".join(filter(None, [name, self.subset, self.split, self.revision]))

    def look_up_identity(self) -> str:
        listing = folder_sha256(Path(self.path)) if Path(self.path).is_dir() else ""
        parts = [self.path, self.subset or "", self.split, self.revision or "", listing]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def n_bytes(self) -> int:
        return int(self._rows.data.nbytes)

    @cached_property
    def _rows(self) -> Any:
        """The text column, in mapped Arrow files. Raises: FolioError if the dataset cannot be loaded."""
        try:
            import datasets
        except ImportError:
            raise FolioError(f"data=huggingface needs the package datasets; {INSTALL}") from None
        datasets.disable_progress_bars()
        try:
            # Only data is loaded: no code of the dataset is run, not even by versions of the library that could.
            found = datasets.load_dataset(self.path, self.subset, split=self.split, revision=self.revision)
        except Exception as error:  # of any kind: from the network, the file formats or the library
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise FolioError(
                f"data.path={self.path} could not be loaded by datasets: {reason}; check data.path, data.subset, "
                "data.split and the network, or give a folder"
            ) from error
        check_text_field(list(found.column_names), self.text_field, f"data.path={self.path}")
        return found.select_columns([self.text_field]).with_format("arrow")

    def blocks(self, after: ReadPosition, end: ReadPosition | None = None) -> Iterator[PositionedBlock]:
        rows = self._rows
        n_rows = len(rows) if end is None else end.end
        file = CorpusFile(Path(self.path), PARQUET, "", self.n_bytes, 0)
        firsts = range(after.end, n_rows, ROWS_PER_BATCH)
        columns = (rows[first : min(first + ROWS_PER_BATCH, n_rows)].column(0) for first in firsts)
        for block in row_blocks(file, columns, 0, after.end, self.n_bytes / max(len(rows), 1)):
            yield ReadPosition(0, block.end, block.next), block

    def divide(self, n_parts: int) -> list[CorpusPart]:
        """Return ranges of rows. Raises: FolioError if there are fewer rows than parts."""
        n_rows = len(self._rows)
        if n_parts > n_rows:
            raise FolioError(f"data.path={self.path} has {n_rows:,} rows; use at most that many parts")
        cuts = [n_rows * number // n_parts for number in range(n_parts + 1)]
        return [
            CorpusPart(ReadPosition(0, first, first + 1), ReadPosition(0, end), self.n_bytes * (end - first) // n_rows)
            for first, end in pairwise(cuts)
        ]
