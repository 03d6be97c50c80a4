"""The lines of a text as token sequences of their own, for objectives that read one sentence or verse at a time."""

import numpy as np

from folio.data.windows import gather_runs
from folio.errors import FolioError

CHUNK_TOKENS = 1 << 22
"""Tokens looked at in one go: a mapped file may be larger than memory."""


class Lines:
    """The maximal runs of tokens without a newline: `starts` and `lengths`, both (n_lines,) int64.

    Newline tokens belong to no line, also those that hold other text as well; empty lines are left out, and a run
    longer than `max_length` is cut into pieces of that length, of which the last may be short.

    Raises: FolioError if there is no line in the split.
    """

    def __init__(self, tokens: np.ndarray, newline_ids: np.ndarray, max_length: int) -> None:
        assert max_length >= 1
        starts, lengths = _runs_between(newline_positions(tokens, newline_ids), len(tokens))
        if len(starts) == 0:
            raise FolioError(
                f"a split of {len(tokens)} tokens holds newlines alone, and a masked language model reads the lines "
                "between them; use a text with words in it"
            )
        self._tokens = tokens
        self.max_length = max_length
        self.starts, self.lengths = _pieces(starts, lengths, max_length)

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lines at `indices` (B,): tokens (B, T), padded with zeros to the longest, and lengths (B,), all int64."""
        lengths = self.lengths[indices]
        return gather_runs(self._tokens, self.starts[indices], lengths), lengths


def newline_positions(tokens: np.ndarray, newline_ids: np.ndarray) -> np.ndarray:
    """(n_newlines,) int64, ascending: where `tokens` (N,) is one of `newline_ids`."""
    tokens = np.asarray(tokens)
    chunks = [
        first + np.flatnonzero(np.isin(tokens[first : first + CHUNK_TOKENS], newline_ids))
        for first in range(0, len(tokens), CHUNK_TOKENS)
    ]
    return np.concatenate(chunks, dtype=np.int64) if chunks else np.empty(0, dtype=np.int64)


def _runs_between(newlines: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the non-empty runs before, between and after the newlines."""
    starts = np.concatenate(([0], newlines + 1))
    lengths = np.concatenate((newlines, [n_tokens])) - starts
    return starts[lengths > 0], lengths[lengths > 0]


def _pieces(starts: np.ndarray, lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the runs, each cut into as few pieces of at most `max_length` as it takes."""
    n_pieces = -(-lengths // max_length)
    # Of each piece, how many tokens of its run come before it.
    before = (np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)) * max_length
    return np.repeat(starts, n_pieces) + before, np.minimum(np.repeat(lengths, n_pieces) - before, max_length)
