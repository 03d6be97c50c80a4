"""Prefix language modelling: an encoder reads what precedes a window, and a decoder continues the text.

Source: Raffel et al. 2020, "T5", section 3.2.3, where a prefix language model reads part of a text and predicts the
rest. Here an encoder reads that part.

With P = max_prefix_length and T = context_length, a window at start a spans P + T tokens. Its continuation is
x[a+P : a+P+T], and its prefix the s tokens before that, x[a+P-s : a+P]. The decoder reads x[a+P-1 : a+P-1+T]: it begins
with the last token of the prefix, so no start token is needed.

Shapes: B windows in a batch, S tokens in the longest of its prefixes.
"""

from collections.abc import Sequence

import numpy as np

from folio.data.batches.batch import Batch, BatchDataset
from folio.data.batches.order import MicroBatch
from folio.data.batches.random_numbers import RandomStream, random_uint64, uniform_integers
from folio.data.batches.windows import as_tensor, gather_spans, gather_windows, sequential_windows
from folio.data.sharded_tokens import Tokens
from folio.runtime.errors import FolioError


def n_prefix_window_starts(n_tokens: int, context_length: int, max_prefix_length: int) -> int:
    """Return the number of positions at which a window can start. Raises: FolioError if the split is too short."""
    n_needed = max_prefix_length + context_length
    if n_tokens < n_needed:
        raise FolioError(
            f"a split of {n_tokens} tokens is shorter than one window of objective.max_prefix_length="
            f"{max_prefix_length} + model.context_length={context_length} tokens; use a longer text, or lower their "
            f"sum by {n_needed - n_tokens}"
        )
    return n_tokens - n_needed + 1


class PrefixTrainingWindows(BatchDataset):
    """The windows at all starts. The length of a prefix is uniform between the minimum and the maximum.

    It is a function of (seed, step) and a row's position in the global batch.

    Raises: FolioError if the split is shorter than one window.

        >>> windows = PrefixTrainingWindows(np.arange(20), 4, seed=1, min_prefix_length=2, max_prefix_length=2)
        >>> batch = windows.batch(MicroBatch(step=0, batch_indices=np.array([5]), rows=slice(0, 1)))
        >>> batch.prefix.tolist(), batch.tokens.tolist()
        ([[5, 6]], [[6, 7, 8, 9]])
    """

    def __init__(
        self, tokens: Tokens, context_length: int, *, seed: int, min_prefix_length: int, max_prefix_length: int
    ) -> None:
        assert 1 <= min_prefix_length <= max_prefix_length
        self._tokens = tokens
        self._context_length = context_length
        self._seed = seed
        self._min_prefix_length = min_prefix_length
        self._max_prefix_length = max_prefix_length
        self._n_starts = n_prefix_window_starts(len(tokens), context_length, max_prefix_length)

    def __len__(self) -> int:
        return self._n_starts

    def batch(self, micro_batch: MicroBatch) -> Batch:
        n_rows = len(micro_batch.batch_indices)
        random = random_uint64(self._seed, micro_batch.step, n_rows, RandomStream.PREFIX_LENGTHS)[micro_batch.rows]
        lengths = _prefix_lengths(random, self._min_prefix_length, self._max_prefix_length)
        prefix_ends = micro_batch.indices + self._max_prefix_length
        windows = gather_windows(self._tokens, prefix_ends - 1, self._context_length)
        prefix = gather_spans(self._tokens, prefix_ends - lengths, lengths)
        return _batch(windows[:, :-1], windows[:, 1:], prefix, lengths)


class PrefixValidationWindows(BatchDataset):
    """A whole split in order: every token after the longest prefix is a target exactly once.

    The last window starts earlier so that it is full, and targets that it repeats are IGNORE_INDEX. The length of a
    prefix is a function of its window's number alone.

    With `shuffled`, each window gets the prefix of the window half a split away, including its length, which shows how
    much the right prefix helps. A split of a single window keeps its own prefix. In a split of few windows, the other
    prefix can overlap the continuation; with 3P + 4T tokens or more none does.

    Raises: FolioError if the split is shorter than one window.

        >>> windows = PrefixValidationWindows(np.arange(20), 4, min_prefix_length=2, max_prefix_length=2)
        >>> windows.batch([0]).prefix.tolist(), windows.batch([0]).targets.tolist()
        ([[0, 1]], [[2, 3, 4, 5]])
    """

    def __init__(
        self,
        tokens: Tokens,
        context_length: int,
        *,
        min_prefix_length: int,
        max_prefix_length: int,
        shuffled: bool = False,
    ) -> None:
        assert 1 <= min_prefix_length <= max_prefix_length
        n_prefix_window_starts(len(tokens), context_length, max_prefix_length)
        self._tokens = tokens
        self._context_length = context_length
        # The first target is the token after the longest prefix, and a window counts all its tokens except the first.
        first_read = max_prefix_length - 1
        self._windows = sequential_windows(len(tokens) - first_read, context_length)
        self._starts = self._windows.starts + first_read
        n_windows = len(self._starts)
        random = random_uint64(0, 0, n_windows, RandomStream.VALIDATION_PREFIX_LENGTHS)
        lengths = _prefix_lengths(random, min_prefix_length, max_prefix_length)
        source = (np.arange(n_windows) + (n_windows // 2 if shuffled else 0)) % n_windows
        self._prefix_starts = (self._starts + 1 - lengths)[source]
        self._prefix_lengths = lengths[source]

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        windows = gather_windows(self._tokens, self._starts[rows], self._context_length)
        lengths = self._prefix_lengths[rows]
        prefix = gather_spans(self._tokens, self._prefix_starts[rows], lengths)
        targets = self._windows.ignore_repeated(windows[:, 1:], rows)
        return _batch(windows[:, :-1], targets, prefix, lengths)


def _prefix_lengths(random: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """Map random uint64 to int64, uniform from shortest to longest, both included."""
    return shortest + uniform_integers(random, longest - shortest + 1)


def _batch(tokens: np.ndarray, targets: np.ndarray, prefix: np.ndarray, prefix_lengths: np.ndarray) -> Batch:
    return Batch(
        as_tensor(tokens),
        as_tensor(targets),
        n_tokens=tokens.size + int(prefix_lengths.sum()),
        prefix=as_tensor(prefix),
        prefix_lengths=as_tensor(prefix_lengths),
    )
