"""Which windows of the token file make up which batch, as pure functions of (seed, step).

The order is one of indices, so it serves whatever is numbered: starts of windows here, lines in `masking`.

There is no loader state to save, memory does not grow with the corpus, and any number of workers, devices or
accumulated micro batches sees the same global batches: a run that goes on computes the step it is at.

Shapes: B sequences in a batch, T = context_length. A window holds T + 1 tokens: T inputs, and the T targets
that are the same tokens shifted by one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.random_numbers import Permutation, RandomStream, random_uint64, uniform_integers
from folio.data.sharded_tokens import ShardedTokens, Tokens
from folio.data.token_file import check_whole
from folio.runtime.errors import FolioError


def n_window_starts(n_tokens: int, context_length: int) -> int:
    """How many places a window can start at. Raises FolioError if the split is shorter than one window."""
    if n_tokens <= context_length:
        raise FolioError(
            f"a split of {n_tokens} tokens is shorter than one window of "
            f"model.context_length={context_length} + 1 tokens; use a longer text, "
            f"or a model.context_length below {n_tokens}"
        )
    return n_tokens - context_length


def random_starts(n_starts: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """(B,) int64, independent and uniform in [0, n_starts), as nanoGPT's get_batch draws them."""
    return uniform_integers(random_uint64(seed, step, batch_size, RandomStream.WINDOW_ORDER), n_starts)


def shuffled_starts(n_starts: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """(B,) int64 in which each start comes once an epoch; a batch may run over into the next epoch."""
    drawn = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = np.divmod(drawn, n_starts)
    starts = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        starts[here] = Permutation(n_starts, seed, epoch)(places[here])
    return starts


WINDOW_ORDERS = {"random": random_starts, "shuffled": shuffled_starts}


@dataclass(frozen=True)
class SequentialWindows:
    """Windows over a whole split: `starts` (N,), and `first_counted` (N,), the first target in each that no
    earlier window has counted; both int64."""

    starts: np.ndarray
    first_counted: np.ndarray

    def counted(self, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The targets (B, T) of the windows `rows` (B,), with IGNORE_INDEX for those counted before."""
        return np.where(np.arange(targets.shape[1]) >= self.first_counted[rows, None], targets, IGNORE_INDEX)


def sequential_windows(n_tokens: int, context_length: int) -> SequentialWindows:
    """Windows in which every token but the first is counted as a target exactly once.

    They start at 0, T, 2T and so on; the last is moved back so that it is full, for a batch needs one shape.

    Raises: FolioError if the split is shorter than one window.
    """
    last_start = n_window_starts(n_tokens, context_length) - 1
    wanted = np.arange(0, n_tokens - 1, context_length, dtype=np.int64)
    starts = np.minimum(wanted, last_start)
    return SequentialWindows(starts, wanted - starts)


def gather_windows(tokens: Tokens, starts: np.ndarray, context_length: int) -> np.ndarray:
    """(B, T + 1) int64: the window at each start, in one gather that reads no other page of a mapped file.

    Rows of a strided view are copied as runs, which is 40 times faster than B * (T + 1) single positions for
    batches of GPT-2's size.
    """
    if isinstance(tokens, ShardedTokens):
        return tokens.windows(starts, context_length + 1).astype(np.int64)
    check_whole(tokens)
    windows: np.ndarray = sliding_window_view(np.asarray(tokens), context_length + 1)[starts].astype(np.int64)
    return windows


def gather_spans(tokens: Tokens, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(B, T) int64: the run of tokens at each start, padded with zeros to the longest; `lengths` (B,) are positive."""
    columns = np.arange(lengths.max())
    # Padding repeats the last position, so that no other page of a mapped file is read.
    positions = starts[:, None] + np.minimum(columns, lengths[:, None] - 1)
    if isinstance(tokens, ShardedTokens):
        found = tokens.take(positions)
    else:
        check_whole(tokens)
        found = np.asarray(tokens)[positions]
    runs: np.ndarray = np.where(columns < lengths[:, None], found, 0).astype(np.int64)
    return runs


def as_tensor(array: np.ndarray) -> Tensor:
    """A contiguous tensor, so that a loss may use `view`."""
    return torch.from_numpy(np.ascontiguousarray(array))


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One micro batch as a part of its step: a dataset may need to know the whole of which it makes a part.

    `batch_indices` (B_global,) int64 are the indices of the global batch, of which `rows` are this micro batch's.
    """

    step: int
    batch_indices: np.ndarray
    rows: slice

    @property
    def indices(self) -> np.ndarray:
        """(B,) int64, of this micro batch alone."""
        return self.batch_indices[self.rows]


class TrainingWindows(Dataset[Batch]):
    """The windows at any start; `TrainingBatches` says which, and the loader hands over a batch at a time.

    Raises: FolioError if the split is shorter than one window.
    """

    def __init__(self, tokens: Tokens, context_length: int) -> None:
        self._tokens = tokens
        self._context_length = context_length
        self._n_starts = n_window_starts(len(tokens), context_length)

    def __len__(self) -> int:
        return self._n_starts

    def __getitems__(self, draw: MicroBatch) -> Batch:
        windows = gather_windows(self._tokens, draw.indices, self._context_length)
        tokens = as_tensor(windows[:, :-1])
        return Batch(tokens, as_tensor(windows[:, 1:]), n_tokens=tokens.numel())


class ValidationWindows(Dataset[Batch]):
    """A whole split in fixed order, each target once; targets that a window repeats are IGNORE_INDEX.

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
        return Batch(tokens, as_tensor(self._windows.counted(windows[:, 1:], rows)), n_tokens=tokens.numel())


class IndexOrder(Protocol):
    """An order of indices that is no plain one of `WINDOW_ORDERS`: `folio.data.batches.mixture.Mixture`."""

    def indices(self, window_order: str, seed: int, step: int, batch_size: int) -> np.ndarray: ...


@dataclass(frozen=True)
class TrainingBatches(Sampler[MicroBatch]):
    """The draw of each micro batch of one rank, for a loader's `batch_sampler`.

    The global batch of a step depends on neither `micro_batch_size` nor `world_size`: each rank takes its own
    rows of it, in order, and cuts them into micro batches.

    `n_starts` is the number of indices to choose from: the length of the dataset.

    Iteration begins at `first_step`, yet the length counts from step 0, since a Lightning loop that goes on
    counts the batches of the whole run.
    """

    window_order: str
    n_starts: int
    seed: int
    batch_size: int
    micro_batch_size: int
    first_step: int
    n_steps: int
    rank: int = 0
    world_size: int = 1
    mixture: IndexOrder | None = None
    """Of several corpora; else `window_order` draws from [0, n_starts)."""

    def __post_init__(self) -> None:
        assert self.window_order in WINDOW_ORDERS
        assert self.batch_size % (self.micro_batch_size * self.world_size) == 0
        assert 0 <= self.rank < self.world_size

    def __len__(self) -> int:
        return self.n_steps * (self.batch_size // (self.micro_batch_size * self.world_size))

    def __iter__(self) -> Iterator[MicroBatch]:
        n_own = self.batch_size // self.world_size
        own = range(self.rank * n_own, (self.rank + 1) * n_own, self.micro_batch_size)
        for step in range(self.first_step, self.n_steps):
            indices = self.indices(step)
            for first in own:
                yield MicroBatch(step, indices, slice(first, first + self.micro_batch_size))

    def indices(self, step: int) -> np.ndarray:
        """(B,) int64: the global batch of a step."""
        if self.mixture is not None:
            return self.mixture.indices(self.window_order, self.seed, step, self.batch_size)
        return WINDOW_ORDERS[self.window_order](self.n_starts, self.seed, step, self.batch_size)
