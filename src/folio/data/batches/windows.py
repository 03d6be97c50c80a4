"""Windows of a token array, for causal language modelling.

Shapes: B sequences in a batch, T = context_length. A window holds T + 1 tokens: T inputs, and the T targets, which are
the same tokens shifted by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.data import Dataset

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.order import MicroBatch
from folio.data.sharded_tokens import ShardedTokens, Tokens
from folio.data.token_file import check_whole
from folio.runtime.errors import FolioError


def n_window_starts(n_tokens: int, context_length: int) -> int:
    """Return the number of positions at which a window can start. Raises: FolioError if the split is too short."""
    if n_tokens <= context_length:
        raise FolioError(
            f"a split of {n_tokens} tokens is shorter than one window of "
            f"model.context_length={context_length} + 1 tokens; use a longer text, "
            f"or a model.context_length below {n_tokens}"
        )
    return n_tokens - context_length


def gather_windows(tokens: Tokens, starts: np.ndarray, context_length: int) -> np.ndarray:
    """Return the window at each start, (B, T + 1) int64, in one gather that reads no other page of a mapped file.

    Rows of a strided view are copied as a whole, which is 40 times faster than B * (T + 1) single positions for batches
    of GPT-2's size.
    """
    if isinstance(tokens, ShardedTokens):
        return tokens.windows(starts, context_length + 1).astype(np.int64)
    check_whole(tokens)
    windows: np.ndarray = sliding_window_view(np.asarray(tokens), context_length + 1)[starts].astype(np.int64)
    return windows


def gather_spans(tokens: Tokens, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the tokens of each span, (B, T) int64, padded with zeros to the longest. `lengths` (B,) are positive."""
    columns = np.arange(lengths.max())
    # The last position is repeated and then overwritten, so that no other page of a mapped file is read.
    positions = starts[:, None] + np.minimum(columns, lengths[:, None] - 1)
    if isinstance(tokens, ShardedTokens):
        found = tokens.take(positions)
    else:
        check_whole(tokens)
        found = np.asarray(tokens)[positions]
    spans: np.ndarray = np.where(columns < lengths[:, None], found, 0).astype(np.int64)
    return spans


def as_tensor(array: np.ndarray) -> Tensor:
    """Return a contiguous tensor, so that a loss can use `view`."""
    return torch.from_numpy(np.ascontiguousarray(array))


class TrainingWindows(Dataset[Batch]):
    """The windows at all starts. `TrainingBatches` chooses among them, and the loader asks for a batch at a time.

    Raises: FolioError if the split is shorter than one window.
    """

    def __init__(self, tokens: Tokens, context_length: int) -> None:
        self._tokens = tokens
        self._context_length = context_length
        self._n_starts = n_window_starts(len(tokens), context_length)

    def __len__(self) -> int:
        return self._n_starts

    def __getitems__(self, micro_batch: MicroBatch) -> Batch:
        windows = gather_windows(self._tokens, micro_batch.indices, self._context_length)
        tokens = as_tensor(windows[:, :-1])
        return Batch(tokens, as_tensor(windows[:, 1:]), n_tokens=tokens.numel())


@dataclass(frozen=True)
class SequentialWindows:
    """Windows that cover a split: `starts`, and `first_counted`, the first target that no earlier window counted.

    Shapes: both (N,) int64.
    """

    starts: np.ndarray
    first_counted: np.ndarray

    def ignore_repeated(self, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the targets (B, T) of windows `rows` (B,), with IGNORE_INDEX for those that were counted before."""
        return np.where(np.arange(targets.shape[1]) >= self.first_counted[rows, None], targets, IGNORE_INDEX)


def sequential_windows(n_tokens: int, context_length: int) -> SequentialWindows:
    """Return windows in which every token except the first is counted as a target exactly once.

    They start at 0, T, 2T and so on. The last one starts earlier so that it is full, since a batch needs one shape.

    Raises: FolioError if the split is shorter than one window.
    """
    last_start = n_window_starts(n_tokens, context_length) - 1
    wanted = np.arange(0, n_tokens - 1, context_length, dtype=np.int64)
    starts = np.minimum(wanted, last_start)
    return SequentialWindows(starts, wanted - starts)


class ValidationWindows(Dataset[Batch]):
    """A whole split in fixed order, with each target once. Targets that a window repeats are IGNORE_INDEX.

    Raises: FolioError if the split is shorter than one window.
    """

    def __init__(self, tokens: Tokens, context_length: int) -> None:
        self._tokens = tokens
        self._context_length = context_length
        self._windows = sequential_windows(len(tokens), context_length)

    def __len__(self) -> int:
        return len(self._windows.starts)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        windows = gather_windows(self._tokens, self._windows.starts[rows], self._context_length)
        tokens = as_tensor(windows[:, :-1])
        targets = self._windows.ignore_repeated(windows[:, 1:], rows)
        return Batch(tokens, as_tensor(targets), n_tokens=tokens.numel())
