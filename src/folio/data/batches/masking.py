"""Masked language modelling: lines in which some tokens are hidden, and only these are to be predicted.

Source: Devlin et al. 2019, "BERT", section 3.1 and appendix A.1. A line is masked differently each time that it is
read, as in RoBERTa (Liu et al. 2019); the masks of validation are fixed.

Shapes: B lines in a batch, T tokens in the longest of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from folio.data.batches.batch import IGNORE_INDEX, Batch, BatchDataset
from folio.data.batches.lines import Lines
from folio.data.batches.order import MicroBatch
from folio.data.batches.random_numbers import RandomStream, random_uint64, uniform_fractions, uniform_integers
from folio.data.batches.windows import as_tensor
from folio.data.sharded_tokens import Tokens

RANDOMS_PER_TOKEN = 3
"""Random numbers for each token: whether it is a target, how it is hidden, and which symbol may replace it."""

COUNT_CHUNK_TOKENS = 1 << 20

MAX_COUNTED_TOKENS = 1 << 26
"""Number of training tokens that a baseline counts, so that a larger corpus does not delay the start."""


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Share of a line's tokens that are targets, and how they are hidden. The default shares are BERT's.

    The share `mask_share` of the targets is replaced by `mask_id`, and `random_share` by a symbol in [0, n_symbols).
    The rest stays as it is: no input has masks after training, so the model must also use the token at each position.

        >>> Masking(mask_id=65, n_symbols=65, mask_fraction=0.15).mask_share
        0.8
    """

    mask_id: int
    n_symbols: int
    mask_fraction: float
    mask_share: float = 0.8
    random_share: float = 0.1


def mask_tokens(
    tokens: np.ndarray, lengths: np.ndarray, random: np.ndarray, masking: Masking
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets, both (B, T) int64; targets are IGNORE_INDEX where nothing is to be predicted.

    In each line exactly `n_targets` tokens are targets, and all choices of that many are equally likely. How each of
    them is hidden is drawn independently.

    Shapes: tokens (B, T), lengths (B,), random (B, T or more, RANDOMS_PER_TOKEN) uint64. A row depends only on its own
    tokens, length and random numbers, not on its padding.
    """
    ranks, actions, symbols = np.moveaxis(random[:, : tokens.shape[1]], 2, 0)  # each (B, T)
    is_target = _lowest(ranks, lengths, n_targets(lengths, masking.mask_fraction))
    action = uniform_fractions(actions)
    hidden = np.where(action < masking.mask_share, masking.mask_id, uniform_integers(symbols, masking.n_symbols))
    inputs = np.where(is_target & (action < masking.mask_share + masking.random_share), hidden, tokens)
    return inputs, np.where(is_target, tokens, IGNORE_INDEX)


def n_targets(lengths: np.ndarray, mask_fraction: float) -> np.ndarray:
    """Return the number of targets in lines of these lengths, at least one: (B,) int64."""
    return np.maximum(1, np.rint(mask_fraction * lengths)).astype(np.int64)


def _lowest(ranks: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return where the `counts` lowest of the first `lengths` ranks of each row are: (B, T) bool."""
    columns = np.arange(ranks.shape[1])
    padded_last = np.where(columns < lengths[:, None], ranks, np.iinfo(np.uint64).max)
    # Stable, so that a token precedes padding even if its rank is the maximum.
    order = np.argsort(padded_last, axis=1, kind="stable")
    chosen = np.zeros(ranks.shape, dtype=bool)
    np.put_along_axis(chosen, order, columns < counts[:, None], axis=1)
    return chosen


class MaskedTrainingLines(BatchDataset):
    """Lines with masks that are a function of (seed, step) and a line's position in the global batch.

    `len` is the number of lines, and an index is a line's number.

        >>> lines = Lines(np.arange(1, 9), newline_ids=np.array([0]), max_length=8)
        >>> dataset = MaskedTrainingLines(lines, Masking(mask_id=9, n_symbols=9, mask_fraction=0.25), seed=1)
        >>> batch = dataset.batch(MicroBatch(step=0, batch_indices=np.array([0]), rows=slice(0, 1)))
        >>> int((batch.targets != IGNORE_INDEX).sum())
        2
    """

    def __init__(self, lines: Lines, masking: Masking, *, seed: int) -> None:
        self._lines = lines
        self._masking = masking
        self._seed = seed

    def __len__(self) -> int:
        return len(self._lines)

    def n_before(self, positions: np.ndarray) -> np.ndarray:
        """Return how many lines begin before each position of a token: (N,) int64."""
        return self._lines.n_before(positions)

    def batch(self, micro_batch: MicroBatch) -> Batch:
        tokens, lengths = self._lines.gather(micro_batch.indices)
        # For max_length columns, so that the numbers of a row do not depend on the length of the other lines.
        shape = len(micro_batch.batch_indices), self._lines.max_length, RANDOMS_PER_TOKEN
        random = random_uint64(self._seed, micro_batch.step, math.prod(shape), RandomStream.MASKS).reshape(shape)
        inputs, targets = mask_tokens(tokens, lengths, random[micro_batch.rows], self._masking)
        return _padded_batch(inputs, targets, lengths, self._weight(micro_batch))

    def _weight(self, micro_batch: MicroBatch) -> float:
        counts = n_targets(self._lines.lengths[micro_batch.batch_indices], self._masking.mask_fraction)
        return float(counts[micro_batch.rows].mean() / counts.mean())


class MaskedValidationLines(BatchDataset):
    """Every line once, in order.

    The masks of a line are a function of its number alone, so that all models, whatever their seeds and batch sizes,
    have the same targets.

        >>> lines = Lines(np.arange(1, 9), newline_ids=np.array([0]), max_length=8)
        >>> dataset = MaskedValidationLines(lines, Masking(mask_id=9, n_symbols=9, mask_fraction=0.25))
        >>> int((dataset.batch([0]).targets != IGNORE_INDEX).sum())
        2
    """

    def __init__(self, lines: Lines, masking: Masking) -> None:
        self.masking = masking
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def batch(self, indices: Sequence[int]) -> Batch:
        tokens, lengths = self._lines.gather(np.asarray(indices, dtype=np.int64))
        shape = tokens.shape[1], RANDOMS_PER_TOKEN
        n, stream = math.prod(shape), RandomStream.VALIDATION_MASKS
        random = np.stack([random_uint64(0, index, n, stream).reshape(shape) for index in indices])
        inputs, targets = mask_tokens(tokens, lengths, random, self.masking)
        return _padded_batch(inputs, targets, lengths)


def _padded_batch(inputs: np.ndarray, targets: np.ndarray, lengths: np.ndarray, weight: float = 1.0) -> Batch:
    return Batch(
        as_tensor(inputs), as_tensor(targets), n_tokens=int(lengths.sum()), lengths=as_tensor(lengths), weight=weight
    )


def unigram_baseline(
    train_tokens: Tokens, newline_ids: np.ndarray, validations: Sequence[MaskedValidationLines]
) -> dict[str, float]:
    """Return the loss and the accuracy on the validation targets without reading anything around them.

    `unigram_loss_nats` is the mean cross entropy under the frequencies of the training tokens, without newlines and
    with one added to each count. `unigram_accuracy` is the share of targets that are the most frequent token.
    """
    n_symbols = validations[0].masking.n_symbols
    counts = _count_tokens(train_tokens, n_symbols) + 1.0
    counts[newline_ids] = 0
    target_counts = np.sum([_count_targets(validation) for validation in validations], axis=0)
    is_present = target_counts > 0
    nats = np.log(counts.sum()) - np.log(counts[is_present])
    return {
        "unigram_loss_nats": float(target_counts[is_present] @ nats / target_counts.sum()),
        "unigram_accuracy": float(target_counts[counts.argmax()] / target_counts.sum()),
    }


def _count_tokens(tokens: Tokens, n_symbols: int) -> np.ndarray:
    """Return how often each symbol occurs, (n_symbols,) int64; beyond MAX_COUNTED_TOKENS in evenly spread chunks."""
    n_chunks = -(-len(tokens) // COUNT_CHUNK_TOKENS)
    chunks = np.linspace(0, n_chunks - 1, min(n_chunks, MAX_COUNTED_TOKENS // COUNT_CHUNK_TOKENS)).astype(np.int64)
    counts = np.zeros(n_symbols, dtype=np.int64)
    for first in (chunks * COUNT_CHUNK_TOKENS).tolist():
        counts += np.bincount(np.asarray(tokens[first : first + COUNT_CHUNK_TOKENS]), minlength=n_symbols)
    return counts


def _count_targets(validation: MaskedValidationLines, batch_size: int = 256) -> np.ndarray:
    """Return how often each symbol is a target: (n_symbols,) int64."""
    counts = np.zeros(validation.masking.n_symbols, dtype=np.int64)
    for first in range(0, len(validation), batch_size):
        targets = validation.batch(range(first, min(first + batch_size, len(validation)))).targets
        counts += np.bincount(targets[targets != IGNORE_INDEX].numpy(), minlength=validation.masking.n_symbols)
    return counts
