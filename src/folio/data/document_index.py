"""Where the documents of a split begin and end, and where their prompts end."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.data.sharded_tokens import ShardedTokens
from folio.data.token_file import MappedTokens, TokenFileError, check_whole, map_tokens

END, PROMPT = "<i8", "<u4"
"""Types of the two files of an index: the end of each document, counted in tokens, and the length of its prompt."""

CHUNK = 1 << 20
"""Number of documents that are looked at together, since an index can be larger than memory."""


def index_files(folder: Path, split: str, has_prompts: bool) -> dict[Path, str]:
    """Return the files of the index of a split, and the type of their values."""
    stem = folder / f"documents-{split}"
    files = {stem.with_suffix(".ends"): END}
    return files | ({stem.with_suffix(".prompts"): PROMPT} if has_prompts else {})


@dataclass(frozen=True, eq=False)
class DocumentTable:
    """The documents of one split of one corpus, in order. Each ends with its separator.

    Shapes: ends and prompt_lengths (n_documents,), mapped files.

        >>> DocumentTable(np.array([3, 7]), prompt_lengths=None).n_tokens
        7
    """

    ends: np.ndarray
    prompt_lengths: np.ndarray | None

    @classmethod
    def open(cls, folder: Path, split: str, n_documents: int, n_tokens: int, has_prompts: bool) -> "DocumentTable":
        """Map the files of a split. Raises: TokenFileError if one is missing, or does not match the manifest."""
        mapped = []
        for path, dtype in index_files(folder, split, has_prompts).items():
            try:
                n_bytes = path.stat().st_size
            except FileNotFoundError:
                raise TokenFileError(path, "is missing") from None
            if n_bytes != n_documents * np.dtype(dtype).itemsize:
                raise TokenFileError(path, f"has {n_bytes} bytes, which are not {n_documents} documents")
            mapped.append(map_tokens(path, dtype))
        if mapped[0][-1] != n_tokens:
            raise TokenFileError(path, f"ends after {mapped[0][-1]} tokens, not after {n_tokens}")
        return cls(mapped[0], mapped[1] if has_prompts else None)

    @property
    def n_tokens(self) -> int:
        return int(self.ends[-1])

    def __len__(self) -> int:
        return len(self.ends)

    def begins(self, starts: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column of the last token of each document that ends in a window, after its first column."""
        self.check()
        firsts = np.searchsorted(self.ends, starts + 1, side="right")
        counts = np.searchsorted(self.ends, starts + width, side="right") - firsts
        rows = np.repeat(np.arange(len(starts)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = np.asarray(self.ends[firsts[rows] + within]) - 1 - starts[rows]
        return rows, _checked(columns, 1, width, self)

    def check(self) -> None:
        """Raises: TokenFileError if a file was cut short."""
        for values in (self.ends, self.prompt_lengths):
            if values is not None:
                check_whole(values)


@dataclass(frozen=True, eq=False)
class MarkedDocuments:
    """The documents of token files without an index, which an end-of-text id separates.

    Example:

        >>> marked = MarkedDocuments(ShardedTokens([np.array([7, 1, 2, 7, 3])]), end_of_text=7)
        >>> DocumentIndex([marked]).numbers(np.array([0]), width=5).tolist()
        [[0, 0, 0, 1, 1]]
    """

    tokens: ShardedTokens
    end_of_text: int
    prompt_lengths: None = None

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    def __len__(self) -> int:
        return 0  # not counted: only documents with prompts are drawn by their number

    def begins(self, starts: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column of each end-of-text id in a window, after its first column."""
        here = np.flatnonzero((starts + width > 0) & (starts < self.n_tokens))
        positions = starts[here, None] + np.arange(1, width)
        is_inside = (positions >= 0) & (positions < self.n_tokens)
        found = self.tokens.take(positions.clip(0, self.n_tokens - 1)) == self.end_of_text
        rows, columns = np.nonzero(found & is_inside)
        return here[rows], columns + 1


class DocumentIndex:
    """The documents of a split, or of the same split of several corpora, one after another.

    Example:

        >>> index = DocumentIndex([DocumentTable(np.array([3, 7]), prompt_lengths=np.array([1, 2]))])
        >>> index.numbers(np.array([0]), width=7).tolist()  # each document begins with the separator before it
        [[0, 0, 1, 1, 1, 1, 2]]
        >>> [part.tolist() for part in index.spans(np.array([1]))]
        [[3], [4], [2]]
    """

    def __init__(self, tables: Sequence[DocumentTable | MarkedDocuments]) -> None:
        self.tables = tuple(tables)
        self.firsts = np.cumsum([0, *map(len, tables)])
        """(n_corpora + 1,): number of the first document of each corpus, and of all documents."""
        self._offsets = np.cumsum([0, *(table.n_tokens for table in tables)])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def has_prompts(self) -> bool:
        return all(table.prompt_lengths is not None for table in self.tables)

    def numbers(self, starts: np.ndarray, width: int) -> np.ndarray:
        """Return to which document each token of the windows at `starts` (B,) belongs: (B, width) int64 from 0.

        The last token of a separator counts as the first of the document that it precedes: then every token is
        predicted from its own document, also the first one, and nothing but the separator precedes that.
        """
        begins = np.zeros((len(starts), width), np.int64)
        for table, offset in zip(self.tables, self._offsets[:-1], strict=True):
            begins[table.begins(starts - offset, width)] = 1
        return begins.cumsum(axis=1)

    def spans(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return first token, length and length of the prompt of `documents` (B,): three (B,) int64."""
        starts, lengths, prompts = (np.zeros(len(documents), np.int64) for _ in range(3))
        for number, table in enumerate(self.tables):
            assert isinstance(table, DocumentTable)
            table.check()
            here = (documents >= self.firsts[number]) & (documents < self.firsts[number + 1])
            own = documents[here] - self.firsts[number]
            begins = np.where(own > 0, table.ends[np.maximum(own - 1, 0)], 0)
            starts[here] = _checked(begins, 0, table.n_tokens, table) + self._offsets[number]
            lengths[here] = _checked(table.ends[own] - begins, 1, table.n_tokens + 1, table)
            if table.prompt_lengths is not None:
                # One token of the text follows at least: an empty text was refused, and a separator follows it too.
                prompts[here] = np.minimum(table.prompt_lengths[own], lengths[here] - 1)
        return starts, lengths, prompts


def _checked(values: np.ndarray, low: int, high: int, table: DocumentTable) -> np.ndarray:
    """Raises: TokenFileError for values outside of [low, high): the files may be from someone else."""
    if len(values) and not (low <= values.min() and values.max() < high):
        ends = table.ends
        name = Path(str(ends.filename)) if isinstance(ends, MappedTokens) else Path("documents")
        raise TokenFileError(name, "holds ends of documents in the wrong order")
    return values


def join_indexes(indexes: Sequence[DocumentIndex | None]) -> DocumentIndex | None:
    """Return the index of several corpora, one after another; None if one of them has none."""
    known = [index for index in indexes if index is not None]
    if len(known) < len(indexes):
        return None
    return DocumentIndex([table for index in known for table in index.tables])
