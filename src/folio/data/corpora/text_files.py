"""data=text_files: the documents of all files that a pattern matches."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from folio.data.corpora.document_corpus import DocumentCorpus
from folio.data.corpora.documents import DocumentFormat, read_blocks
from folio.data.corpora.files import CorpusFile, find_files, listing_sha256
from folio.data.corpora.tasks import PositionedBlock, ReadPosition


@dataclass(frozen=True, kw_only=True)
class TextFiles(DocumentCorpus):
    """Documents in files of text, JSON lines and Parquet. `path` is a pattern, a file or a folder."""

    document_separator: str | None = None
    """Text between the documents of a file; None: each text file is one document."""
    text_suffixes: list[str] = field(default_factory=list)
    """Suffixes of other text files, such as .py."""

    @property
    def kind_and_name(self) -> tuple[str, str]:
        return "text_files", str(Path(self.path).absolute())

    @property
    def document_format(self) -> DocumentFormat:
        return DocumentFormat(self.text_field, self.document_separator)

    @property
    def _options(self) -> dict[str, Any]:
        options = super()._options
        # Only if there are any, so that folders of earlier versions stay valid.
        return options | {"text_suffixes": sorted(self.text_suffixes)} if self.text_suffixes else options

    @cached_property
    def _files(self) -> list[CorpusFile]:
        return self._find()

    def _find(self) -> list[CorpusFile]:
        return find_files(self.path, tuple(self.text_suffixes))

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self._files)

    def look_up_identity(self) -> str:
        return listing_sha256(self._find())

    def blocks(self, after: ReadPosition) -> Iterator[PositionedBlock]:
        for number in range(after.file, len(self._files)):
            begin = after if number == after.file else ReadPosition(number)
            for block in read_blocks(self._files[number], self.document_format, begin.end, begin.next):
                yield ReadPosition(number, block.end, block.next), block
