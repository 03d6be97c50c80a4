"""data=text_files: the documents of all files that a pattern matches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from folio.data.corpora.document_corpus import DocumentCorpus
from folio.data.corpora.documents import DocumentFormat, read_blocks
from folio.data.corpora.files import CorpusFile, find_files, listing_sha256
from folio.data.corpora.tasks import PositionedBlock, ReadPosition


@dataclass(frozen=True, kw_only=True)
class TextFiles(DocumentCorpus):
    """Documents in files of text, JSON lines and Parquet. `path` is a pattern, a file or a folder."""

    document_separator: str | None = None
    """Text between the documents of a file; None: each text file is one document."""

    @property
    def kind_and_name(self) -> tuple[str, str]:
        return "text_files", str(Path(self.path).absolute())

    @property
    def document_format(self) -> DocumentFormat:
        return DocumentFormat(self.text_field, self.document_separator)

    @cached_property
    def _files(self) -> list[CorpusFile]:
        return find_files(self.path)

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self._files)

    def look_up_identity(self) -> str:
        return listing_sha256(find_files(self.path))

    def blocks(self, after: ReadPosition) -> Iterator[PositionedBlock]:
        for number in range(after.file, len(self._files)):
            begin = after if number == after.file else ReadPosition(number)
            for block in read_blocks(self._files[number], self.document_format, begin.end, begin.next):
                yield ReadPosition(number, block.end, block.next), block
