"""Windows of a token array, for causal language modelling.

Shapes: B sequences in a batch, T = context_length. A window holds T + 1 tokens: T inputs, and the T targets, which are
the same tokens shifted by one.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from folio.data.batches.batch import IGNORE_INDEX, Batch, BatchDataset
from folio.data.batches.noise import TokenNoise
from folio.data.batches.order import MicroBatch
from folio.data.document_index import DocumentIndex
from folio.data.sharded_tokens import ShardedTokens, Tokens
from folio.data.token_file import check_whole
from folio.runtime.errors import FolioError


def as_tokens(tokens: Any) -> Tokens:
    """Return the ids of a tensor, a list or an array, (N,), as this package reads them.

    Raises: FolioError if they are not one row of whole numbers.
    """
    if isinstance(tokens, ShardedTokens):
        return tokens
    array = tokens if isinstance(tokens, np.ndarray) else np.asarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and (array % 1).any()):
        raise FolioError(
            f"tokens have the shape {array.shape} and the type {array.dtype}, but must be one row of ids, (N,); "
            "encode the text with a tokenizer first"
        )
    return array


def n_window_starts(n_tokens: int, context_length: int) -> int:
    """Return the number of positions at which a window can start. Raises: FolioError if the split is too short."""
    if context_length < 1:
        raise FolioError(f"context_length={context_length} must be 1 or more")
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


def get_batch(
    tokens: Any, batch_size: int, context_length: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, both (B, T) int64, of windows at random starts, as nanoGPT's get_batch does.

    tokens (N,) are ids in an array, a mapped file, a tensor or a list. The starts come from the generator, or from
    torch's own. Training itself draws by (seed, step) instead: see `order`.

    Raises: FolioError if the split is shorter than one window.
    """
    tokens = as_tokens(tokens)
    if batch_size < 1:
        raise FolioError(f"batch_size={batch_size} must be 1 or more")
    n_starts = n_window_starts(len(tokens), context_length)
    device = None if generator is None else generator.device
    starts = torch.randint(n_starts, (batch_size,), generator=generator, device=device).cpu().numpy()
    windows = gather_windows(tokens, starts, context_length)
    return as_tensor(windows[:, :-1]), as_tensor(windows[:, 1:])


class WindowDataset(BatchDataset):
    """Windows that can also be taken one by one, as inputs and targets (T,), so that any DataLoader can load them.

    Example:

        >>> TrainingWindows(range(20), context_length=4)[-1]
        (tensor([15, 16, 17, 18]), tensor([16, 17, 18, 19]))
    """

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a window, both (T,) int64. Raises: IndexError; TypeError for a slice."""
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a window has one whole number, not a {type(index).__name__}; for several windows use a DataLoader, "
                "or torch.utils.data.Subset"
            ) from None
        n_windows = len(self)
        if not -n_windows <= number < n_windows:
            raise IndexError(f"window {number} does not exist; there are {n_windows}, from 0 to {n_windows - 1}")
        window = self._batch_of(np.array([number % n_windows]))
        return window.tokens[0], window.targets[0]

    def _batch_of(self, rows: np.ndarray) -> Batch:
        """Return the batch of these windows, numbered as in `__getitem__`."""
        raise NotImplementedError


class TrainingWindows(WindowDataset):
    """The windows at all starts. `TrainingBatches` chooses among them, and the loader asks for a batch at a time.

    tokens (N,) are ids in an array, a mapped file, a tensor or a list. With the index of their documents, a batch also
    says to which document each token belongs. Noise changes what a batch lets the model read, never its targets.

    Raises: FolioError if the split is shorter than one window.

        >>> from torch.utils.data import DataLoader
        >>> from folio.data.batches.windows import TrainingWindows
        >>> loader = DataLoader(TrainingWindows(range(20), context_length=8), batch_size=2, shuffle=True)
        >>> tokens, targets = next(iter(loader))
        >>> tokens.shape, bool((targets == tokens + 1).all())
        (torch.Size([2, 8]), True)
    """

    def __init__(
        self,
        tokens: Any,
        context_length: int,
        documents: DocumentIndex | None = None,
        noise: TokenNoise | None = None,
    ) -> None:
        self._tokens = as_tokens(tokens)
        self._context_length = context_length
        self._documents = documents
        self._noise = noise
        self._n_starts = n_window_starts(len(self._tokens), context_length)

    def __len__(self) -> int:
        return self._n_starts

    def batch(self, micro_batch: MicroBatch) -> Batch:
        batch = self._batch_of(micro_batch.indices)
        if self._noise is None:
            return batch
        return batch._replace(tokens=as_tensor(self._noise.replace(batch.tokens.numpy(), micro_batch)))

    def _batch_of(self, rows: np.ndarray) -> Batch:
        windows = gather_windows(self._tokens, rows, self._context_length)
        tokens = as_tensor(windows[:, :-1])
        documents = _document_numbers(self._documents, rows, self._context_length)
        return Batch(tokens, as_tensor(windows[:, 1:]), n_tokens=tokens.numel(), documents=documents)


def _document_numbers(documents: DocumentIndex | None, starts: np.ndarray, context_length: int) -> Tensor | None:
    """Return the number of each token's document in the windows at `starts` (B,): (B, T)."""
    return None if documents is None else as_tensor(documents.numbers(starts, context_length))


@dataclass(frozen=True)
class SequentialWindows:
    """Windows that cover a split: `starts`, and `first_counted`, the first target that no earlier window counted.

    Shapes: both (N,) int64.

        >>> windows = sequential_windows(n_tokens=10, context_length=4)
        >>> windows.starts.tolist(), windows.first_counted.tolist()
        ([0, 4, 5], [0, 0, 3])
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


class ValidationWindows(WindowDataset):
    """A whole split in fixed order, with each target once. Targets that a window repeats are IGNORE_INDEX.

    tokens (N,) are ids in an array, a mapped file, a tensor or a list; `documents` is as in `TrainingWindows`.

    Raises: FolioError if the split is shorter than one window.

        >>> from folio.data.batches.windows import ValidationWindows
        >>> [targets.tolist() for tokens, targets in ValidationWindows(range(7), context_length=4)]
        [[1, 2, 3, 4], [-100, -100, 5, 6]]
    """

    def __init__(self, tokens: Any, context_length: int, documents: DocumentIndex | None = None) -> None:
        self._tokens = as_tokens(tokens)
        self._context_length = context_length
        self._documents = documents
        self._windows = sequential_windows(len(self._tokens), context_length)

    def __len__(self) -> int:
        return len(self._windows.starts)

    def batch(self, indices: Sequence[int]) -> Batch:
        return self._batch_of(np.asarray(indices, dtype=np.int64))

    def _batch_of(self, rows: np.ndarray) -> Batch:
        starts = self._windows.starts[rows]
        windows = gather_windows(self._tokens, starts, self._context_length)
        tokens = as_tensor(windows[:, :-1])
        targets = self._windows.ignore_repeated(windows[:, 1:], rows)
        documents = _document_numbers(self._documents, starts, self._context_length)
        return Batch(tokens, as_tensor(targets), n_tokens=tokens.numel(), documents=documents)
