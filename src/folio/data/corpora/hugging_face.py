"""Datasets of the Hugging Face Hub, or of a folder of files, through the library `datasets`."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from folio.data.corpora.documents import ROWS_AT_ONCE, DocumentBlock, DocumentFormat, check_field, row_blocks
from folio.data.corpora.files import PARQUET, CorpusFile, files_below, listing_sha256
from folio.data.corpora.staging import ReadPosition
from folio.runtime.errors import FolioError

INSTALL = "pip install '.[huggingface]'"


@dataclass(frozen=True)
class HubSource:
    """A dataset by its name on the Hub, or a folder that `datasets` can load.

    What was prepared from the Hub is used again without asking it: another `revision` is another corpus.
    """

    name: str
    subset: str | None
    split: str
    revision: str | None
    reading: DocumentFormat

    def identity(self) -> str:
        parts = [self.name, self.subset or "", self.split, self.revision or "", self._listing]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def is_unchanged(self) -> bool:
        return self._look() == self._listing

    @cached_property
    def _listing(self) -> str:
        return self._look()

    def _look(self) -> str:
        """Of a folder."""
        return listing_sha256(files_below(Path(self.name))) if Path(self.name).is_dir() else ""

    @property
    def n_bytes(self) -> int:
        return int(self._rows.data.nbytes)

    @cached_property
    def _rows(self) -> Any:
        """The dataset, in Arrow files that are mapped. Raises: FolioError where it cannot be had."""
        try:
            import datasets
        except ImportError:
            raise FolioError(f"data=huggingface needs the package datasets; {INSTALL}") from None
        datasets.disable_progress_bars()
        try:
            # A plain dataset or folder of files: no code of it is run, in versions that still could.
            found = datasets.load_dataset(self.name, self.subset, split=self.split, revision=self.revision)
        except Exception as error:  # of any kind: the network's, the file formats', the library's own
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise FolioError(
                f"data.path={self.name} could not be loaded by datasets: {reason}; check data.path, data.subset, "
                "data.split and the network, or give a folder"
            ) from error
        check_field(list(found.column_names), self.reading.text_field, f"data.path={self.name}")
        return found.select_columns([self.reading.text_field]).with_format("arrow")

    def blocks(self, after: ReadPosition) -> Iterator[tuple[ReadPosition, DocumentBlock]]:
        rows = self._rows
        n_rows = len(rows)
        file = CorpusFile(Path(self.name), PARQUET, "", self.n_bytes, 0)
        firsts = range(after.end, n_rows, ROWS_AT_ONCE)
        columns = (rows[first : min(first + ROWS_AT_ONCE, n_rows)].column(0) for first in firsts)
        for block in row_blocks(file, columns, 0, after.end, self.n_bytes / max(n_rows, 1)):
            yield ReadPosition(0, block.end, block.next), block
