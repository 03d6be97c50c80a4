"""data=text_files: the documents of all files that a pattern matches."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from folio.data.corpora.document_corpus import CorpusPart, DocumentCorpus
from folio.data.corpora.documents import DocumentFormat, read_blocks
from folio.data.corpora.files import JSON_LINES, CorpusFile, find_files, listing_sha256
from folio.data.corpora.tasks import PositionedBlock, ReadPosition
from folio.runtime.errors import FolioError


@dataclass(frozen=True, kw_only=True)
class TextFiles(DocumentCorpus):
    """Documents in files of text, JSON lines and Parquet. `path` is a pattern, a file or a folder."""

    document_separator: str | None = None
    """Text between the documents of a file; None: each text file is one document."""
    text_suffixes: list[str] = field(default_factory=list)
    """Suffixes of other text files, such as .py."""
    prompt_field: str | None = None
    completion_field: str | None = None
    """Fields of a JSON line that together are a document; None: the field `text_field` is."""

    @property
    def kind_and_name(self) -> tuple[str, str]:
        return "text_files", str(Path(self.path).absolute())

    @property
    def document_format(self) -> DocumentFormat:
        return DocumentFormat(self.text_field, self.document_separator, self.prompt_field, self.completion_field)

    @property
    def _options(self) -> dict[str, Any]:
        options = super()._options
        # Only if they are given, so that folders of earlier versions stay valid.
        if self.text_suffixes:
            options |= {"text_suffixes": sorted(self.text_suffixes)}
        if self.completion_field is not None:
            options |= {"pair": [self.prompt_field, self.completion_field]}
        return options

    @cached_property
    def _files(self) -> list[CorpusFile]:
        return self._find()

    def _find(self) -> list[CorpusFile]:
        files = find_files(self.path, tuple(self.text_suffixes))
        other = next((file for file in files if file.format != JSON_LINES), None)
        if self.completion_field is not None and other is not None:
            raise FolioError(
                f"data.path matches {other.path}, and data.completion_field={self.completion_field} is read from lines "
                "of JSON (.jsonl); narrow the pattern"
            )
        return files

    @property
    def n_bytes(self) -> int:
        return sum(file.n_bytes for file in self._files)

    def look_up_identity(self) -> str:
        return listing_sha256(self._find())

    def blocks(self, after: ReadPosition, end: ReadPosition | None = None) -> Iterator[PositionedBlock]:
        for number in range(after.file, len(self._files) if end is None else end.file):
            begin = after if number == after.file else ReadPosition(number)
            for block in read_blocks(self._files[number], self.document_format, begin.end, begin.next):
                yield ReadPosition(number, block.end, block.next), block

    def divide(self, n_parts: int) -> list[CorpusPart]:
        """Return ranges of whole files. Raises: FolioError if there are fewer files than parts."""
        files = self._files
        if n_parts > len(files):
            raise FolioError(
                f"data.path={self.path} matches {len(files):,} files, too few for {n_parts:,} parts; use at most "
                f"{len(files):,} parts, or divide the files"
            )
        ends = list(accumulate((file.n_bytes for file in files), initial=0))
        cuts = [0]
        for number in range(1, n_parts):
            nearest = bisect_left(ends, ends[-1] * number / n_parts)
            cuts.append(min(max(nearest, cuts[-1] + 1), len(files) - (n_parts - number)))
        return [
            CorpusPart(ReadPosition(first), ReadPosition(end), ends[end] - ends[first])
            for first, end in pairwise([*cuts, len(files)])
        ]
