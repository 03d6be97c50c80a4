"""The lines of a text as token sequences of their own, for objectives that read one sentence or verse at a time."""

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

CHUNK_TOKENS = 1 << 22
"""Tokens looked at in one go: a mapped file may be larger than memory."""

MOST_TOKENS_IN_MEMORY = 1 << 26
"""Of a split whose lines are found anew at each start, in under a second. Those of a larger one go into files."""

Runs = tuple[np.ndarray, np.ndarray]
"""Starts and lengths, both (n,) integers."""


@dataclass(frozen=True)
class LineFiles:
    """Where the lines of a large split are written down once, to be mapped ever after; the JSON makes them valid."""

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

    def open(self) -> Runs | None:
        """Mapped; None where they are not there, or not whole."""
        try:
            n_lines = json.loads(self.summary.read_bytes())["n_lines"]
            if (self.starts.stat().st_size, self.lengths.stat().st_size) != (8 * n_lines, 4 * n_lines):
                return None
            if n_lines == 0:
                return np.empty(0, np.int64), np.empty(0, np.int64)
            return np.memmap(self.starts, "<i8", mode="r"), np.memmap(self.lengths, "<u4", mode="r")
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, runs: Iterator[Runs]) -> None:
        """Raises: OSError where the folder cannot be written."""
        n_lines = 0
        self.summary.unlink(missing_ok=True)
        with atomic_writer(self.starts) as starts_file, atomic_writer(self.lengths) as lengths_file:
            for starts, lengths in runs:
                starts_file.write(starts.astype("<i8").tobytes())
                lengths_file.write(lengths.astype("<u4").tobytes())
                n_lines += len(starts)
        write_atomically(self.summary, json.dumps({"n_lines": n_lines}).encode())


class Lines:
    """The maximal runs of tokens without a newline: `starts` and `lengths`, both (n_lines,) integers.

    Newline tokens belong to no line, also those that hold other text as well; empty lines are left out, and a run
    longer than `max_length` is cut into pieces of that length, of which the last may be short. No line reaches over
    one of the `borders`, positions where another corpus begins.

    Of more than MOST_TOKENS_IN_MEMORY tokens the lines are kept in `files`, where there are some.

    Raises: FolioError if there is no line in the split.
    """

    def __init__(
        self,
        tokens: Tokens,
        newline_ids: np.ndarray,
        max_length: int,
        borders: Sequence[int] = (),
        files: LineFiles | None = None,
    ) -> None:
        assert max_length >= 1

        def runs() -> Iterator[Runs]:
            return _pieces_of_runs(tokens, newline_ids, max_length, borders)

        is_small = files is None or len(tokens) <= MOST_TOKENS_IN_MEMORY
        self.starts, self.lengths = _in_memory(runs()) if files is None or is_small else _in_files(runs, files)
        if len(self.starts) == 0:
            raise FolioError(
                f"a split of {len(tokens)} tokens holds newlines alone, and a masked language model reads the lines "
                "between them; use a text with words in it"
            )
        self._tokens = tokens
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lines at `indices` (B,): tokens (B, T), padded with zeros to the longest, and lengths (B,), all int64."""
        lengths = np.asarray(self.lengths[indices], dtype=np.int64)
        return gather_spans(self._tokens, np.asarray(self.starts[indices]), lengths), lengths

    @cached_property
    def mean_length(self) -> float:
        """Of a large split, that of its first lines: to look at all would take as long as the split is large."""
        return float(self.lengths[:MOST_TOKENS_IN_MEMORY].mean())

    def n_before(self, positions: np.ndarray) -> np.ndarray:
        """(N,) int64: how many lines begin before each position of a token."""
        return np.searchsorted(self.starts, positions).astype(np.int64)


def newline_positions(tokens: Tokens, newline_ids: np.ndarray) -> np.ndarray:
    """(n_newlines,) int64, ascending: where `tokens` (N,) is one of `newline_ids`."""
    return np.concatenate([np.empty(0, np.int64), *_newlines(tokens, newline_ids, 0, len(tokens))])


def _newlines(tokens: Tokens, newline_ids: np.ndarray, begin: int, end: int) -> Iterator[np.ndarray]:
    for first in range(begin, end, CHUNK_TOKENS):
        chunk = np.asarray(tokens[first : min(first + CHUNK_TOKENS, end)])
        yield first + np.flatnonzero(np.isin(chunk, newline_ids))


def _pieces_of_runs(tokens: Tokens, newline_ids: np.ndarray, max_length: int, borders: Sequence[int]) -> Iterator[Runs]:
    """The lines in order, those of a chunk of the tokens at a time."""
    ends = [*borders, len(tokens)]
    for begin, end in zip([0, *borders], ends, strict=True):
        line = begin  # where the line begins that the chunk before has left open
        for newlines in _newlines(tokens, newline_ids, begin, end):
            starts = np.concatenate(([line], newlines + 1))
            yield _pieces(starts[:-1], newlines - starts[:-1], max_length)
            line = int(starts[-1])
        yield _pieces(np.array([line]), np.array([end - line]), max_length)


def _pieces(starts: np.ndarray, lengths: np.ndarray, max_length: int) -> Runs:
    """The runs without the empty ones, each cut into as few pieces of at most `max_length` as it takes."""
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    n_pieces = -(-lengths // max_length)
    # Of each piece, how many tokens of its run come before it.
    before = (np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)) * max_length
    return np.repeat(starts, n_pieces) + before, np.minimum(np.repeat(lengths, n_pieces) - before, max_length)


def _in_memory(runs: Iterator[Runs]) -> Runs:
    starts, lengths = zip(*runs, strict=True)
    return np.concatenate(starts), np.concatenate(lengths)


def _in_files(runs: Callable[[], Iterator[Runs]], files: LineFiles) -> Runs:
    """Mapped; in memory where the folder cannot be written."""
    found = files.open()
    if found is None:
        try:
            files.write(runs())
        except OSError:
            return _in_memory(runs())
        found = files.open()
        assert found is not None
    return found
