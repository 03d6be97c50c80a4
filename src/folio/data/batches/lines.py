"""The lines of a text as token sequences, for objectives that read one sentence or verse at a time."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from folio.data.batches.windows import gather_spans
from folio.data.sharded_tokens import Tokens
from folio.runtime.errors import FolioError
from folio.runtime.files import atomic_writer, write_atomically
from folio.runtime.untrusted import UntrustedFileError, check_regular, read_json_object

CHUNK_TOKENS = 1 << 22
"""Number of tokens searched at a time, since a mapped file can be larger than memory."""

MAX_TOKENS_IN_MEMORY = 1 << 26
"""Size of the largest split whose lines are found again at each start, in under a second; others use LineFiles."""

Spans = tuple[np.ndarray, np.ndarray]
"""Starts and lengths, both (n,) integers."""


@dataclass(frozen=True)
class LineFiles:
    """Files that hold the lines of a large split, written once and then mapped. The JSON file makes them valid.

    Example:

        >>> LineFiles(Path("lines-train-64")).starts
        PosixPath('lines-train-64.starts')
    """

    stem: Path

    @property
    def starts(self) -> Path:
        return self.stem.with_suffix(".starts")

    @property
    def lengths(self) -> Path:
        return self.stem.with_suffix(".lengths")

    @property
    def summary(self) -> Path:
        return self.stem.with_suffix(".json")

    def open(self) -> Spans | None:
        """Return the mapped arrays; None if the files are missing or incomplete."""
        try:
            n_lines = read_json_object(self.summary)["n_lines"]
            for file in (self.starts, self.lengths):
                check_regular(file)
            if (self.starts.stat().st_size, self.lengths.stat().st_size) != (8 * n_lines, 4 * n_lines):
                return None
            if n_lines == 0:
                return np.empty(0, np.int64), np.empty(0, np.int64)
            return np.memmap(self.starts, "<i8", mode="r"), np.memmap(self.lengths, "<u4", mode="r")
        except (OSError, UntrustedFileError, KeyError, TypeError):
            return None

    def write(self, lines: Iterator[Spans]) -> None:
        """Raises: OSError if the folder cannot be written."""
        n_lines = 0
        self.summary.unlink(missing_ok=True)
        with atomic_writer(self.starts) as starts_file, atomic_writer(self.lengths) as lengths_file:
            for starts, lengths in lines:
                starts_file.write(starts.astype("<i8").tobytes())
                lengths_file.write(lengths.astype("<u4").tobytes())
                n_lines += len(starts)
        write_atomically(self.summary, json.dumps({"n_lines": n_lines}).encode())


class Lines:
    """The spans of tokens between newlines: `starts` and `lengths`, both (n_lines,) integers.

    Newline tokens belong to no line, even if they hold other text as well. Empty lines are left out, and a line longer
    than `max_length` is cut into parts of that length, the last of which may be shorter. No line extends over one of
    the `boundaries`, the positions at which another corpus begins.

    The lines of more than MAX_TOKENS_IN_MEMORY tokens are kept in `files`, if given.

    Raises: FolioError if there is no line in the split.

        >>> lines = Lines(np.array([5, 6, 0, 7]), newline_ids=np.array([0]), max_length=8)
        >>> tokens, lengths = lines.gather(np.array([0, 1]))
        >>> tokens.tolist(), lengths.tolist()
        ([[5, 6], [7, 0]], [2, 1])
    """

    def __init__(
        self,
        tokens: Tokens,
        newline_ids: np.ndarray,
        max_length: int,
        boundaries: Sequence[int] = (),
        files: LineFiles | None = None,
    ) -> None:
        assert max_length >= 1

        def find() -> Iterator[Spans]:
            return _find_lines(tokens, newline_ids, max_length, boundaries)

        in_memory = files is None or len(tokens) <= MAX_TOKENS_IN_MEMORY
        self.starts, self.lengths = _in_memory(find()) if files is None or in_memory else _in_files(find, files)
        if len(self.starts) == 0:
            raise FolioError(
                f"a split of {len(tokens)} tokens holds only newlines, and a masked language model reads the lines "
                "between them; use a text with words in it"
            )
        self._tokens = tokens
        self._stem = files.stem if files is not None else ""
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lines at `indices` (B,): tokens (B, T), padded with zeros, and lengths (B,), all int64."""
        starts = np.asarray(self.starts[indices], dtype=np.int64)
        lengths = np.asarray(self.lengths[indices], dtype=np.int64)
        # The files may be from someone else: a length of 2^32 would ask for as much memory.
        is_valid = starts.min() >= 0 and (starts + lengths).max() <= len(self._tokens) and lengths.min() > 0
        if not is_valid or lengths.max() > self.max_length:
            raise FolioError(f"{self._stem}.* are damaged; remove these files, and they are made again")
        return gather_spans(self._tokens, starts, lengths), lengths

    @cached_property
    def mean_length(self) -> float:
        """Mean length of the lines. Only the first ones of a large split are read, to keep the start short."""
        return float(self.lengths[:MAX_TOKENS_IN_MEMORY].mean())

    def n_before(self, positions: np.ndarray) -> np.ndarray:
        """Return how many lines begin before each position of a token: (N,) int64."""
        return np.searchsorted(self.starts, positions).astype(np.int64)


def find_newlines(tokens: Tokens, newline_ids: np.ndarray, begin: int, end: int) -> Iterator[np.ndarray]:
    """Yield, chunk by chunk, the positions in [begin, end) at which `tokens` is one of `newline_ids`, ascending."""
    for first in range(begin, end, CHUNK_TOKENS):
        chunk = np.asarray(tokens[first : min(first + CHUNK_TOKENS, end)])
        yield first + np.flatnonzero(np.isin(chunk, newline_ids))


def _find_lines(tokens: Tokens, newline_ids: np.ndarray, max_length: int, boundaries: Sequence[int]) -> Iterator[Spans]:
    """Yield the lines in order, those of one chunk of the tokens at a time."""
    for begin, end in zip([0, *boundaries], [*boundaries, len(tokens)], strict=True):
        line_start = begin  # of the line that the previous chunk has left unfinished
        for newlines in find_newlines(tokens, newline_ids, begin, end):
            starts = np.concatenate(([line_start], newlines + 1))
            yield _cut_spans(starts[:-1], newlines - starts[:-1], max_length)
            line_start = int(starts[-1])
        yield _cut_spans(np.array([line_start]), np.array([end - line_start]), max_length)


def _cut_spans(starts: np.ndarray, lengths: np.ndarray, max_length: int) -> Spans:
    """Return the spans without the empty ones, each cut into as few parts of at most `max_length` as possible."""
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    n_parts = -(-lengths // max_length)
    # For each part, the number of tokens of its span that come before it.
    before = (np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)) * max_length
    return np.repeat(starts, n_parts) + before, np.minimum(np.repeat(lengths, n_parts) - before, max_length)


def _in_memory(lines: Iterator[Spans]) -> Spans:
    starts, lengths = zip(*lines, strict=True)
    return np.concatenate(starts), np.concatenate(lengths)


def _in_files(find: Callable[[], Iterator[Spans]], files: LineFiles) -> Spans:
    """Return mapped lines, written first if need be; lines in memory if the folder cannot be written."""
    found = files.open()
    if found is None:
        try:
            files.write(find())
        except OSError:
            return _in_memory(find())
        found = files.open()
        assert found is not None
    return found
