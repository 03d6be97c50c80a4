"""Masked language modelling: lines in which some tokens are hidden, and the model is asked for these alone.

Source: Devlin et al. 2019, "BERT", section 3.1 and appendix A.1. The masks of a line are drawn anew each time that
it comes, as in RoBERTa (Liu et al. 2019), and those of validation are fixed.

Shapes: B lines in a batch, T tokens in the longest of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from folio.data.batches.batch import IGNORE_INDEX, Batch
from folio.data.batches.lines import Lines
from folio.data.batches.random_numbers import RandomStream, random_uint64, uniform_fractions, uniform_integers
from folio.data.batches.windows import MicroBatch, as_tensor
from folio.data.sharded_tokens import Tokens

WORDS_PER_TOKEN = 3
"""Random words for each token: whether it is asked for, what becomes of it, and which symbol takes its place."""


COUNTED_AT_ONCE = 1 << 20
MOST_COUNTED = 1 << 26
"""Training tokens that a baseline looks at, so that a start takes no longer on a larger corpus."""


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How much of a line a model is asked for, and how that is hidden: the shares are BERT's.

    Of the tokens asked for, the share `mask_share` becomes `mask_id` and `random_share` a symbol in [0, n_symbols).
    The rest stays: after training no mask is read, so the model must heed a token at its own place too.
    """

    mask_id: int
    n_symbols: int
    mask_fraction: float
    mask_share: float = 0.8
    random_share: float = 0.1


def mask_tokens(
    tokens: np.ndarray, lengths: np.ndarray, words: np.ndarray, masking: Masking
) -> tuple[np.ndarray, np.ndarray]:
    """What the model reads, and what it is asked for: inputs and targets, both (B, T) int64.

    In each line exactly `n_asked` tokens are asked for, and all choices of so many are equally likely; what becomes
    of each is drawn for itself. Targets are the tokens themselves there, and IGNORE_INDEX elsewhere.

    Shapes: tokens (B, T), lengths (B,), words (B, T or more, WORDS_PER_TOKEN) uint64. A row depends on nothing but
    its own tokens, length and words; how far it is padded does not matter.
    """
    ranks, actions, symbols = np.moveaxis(words[:, : tokens.shape[1]], 2, 0)  # each (B, T)
    asked = _smallest(ranks, lengths, n_asked(lengths, masking.mask_fraction))
    action = uniform_fractions(actions)
    hidden = np.where(action < masking.mask_share, masking.mask_id, uniform_integers(symbols, masking.n_symbols))
    inputs = np.where(asked & (action < masking.mask_share + masking.random_share), hidden, tokens)
    return inputs, np.where(asked, tokens, IGNORE_INDEX)


def n_asked(lengths: np.ndarray, mask_fraction: float) -> np.ndarray:
    """(B,) int64: how many tokens of lines of these lengths are asked for, at least one."""
    return np.maximum(1, np.rint(mask_fraction * lengths)).astype(np.int64)


def _smallest(ranks: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(B, T) bool: where in each row the `counts` smallest of the first `lengths` ranks are."""
    columns = np.arange(ranks.shape[1])
    padded_last = np.where(columns < lengths[:, None], ranks, np.iinfo(np.uint64).max)
    # Stable, so that padding loses also to an equal rank.
    order = np.argsort(padded_last, axis=1, kind="stable")
    chosen = np.zeros(ranks.shape, dtype=bool)
    np.put_along_axis(chosen, order, columns < counts[:, None], axis=1)
    return chosen


class MaskedTrainingLines(Dataset[Batch]):
    """Lines with masks that are a function of (seed, step) and a line's place in the global batch.

    `len` is the number of lines, and an index is a line's number.
    """

    def __init__(self, lines: Lines, masking: Masking, *, seed: int) -> None:
        self._lines = lines
        self._masking = masking
        self._seed = seed

    def __len__(self) -> int:
        return len(self._lines)

    def n_before(self, positions: np.ndarray) -> np.ndarray:
        """(N,) int64: how many lines begin before each position of a token."""
        return self._lines.n_before(positions)

    def __getitems__(self, draw: MicroBatch) -> Batch:
        tokens, lengths = self._lines.gather(draw.indices)
        # For max_length columns, so that the words of a row do not depend on how long the other lines are.
        shape = len(draw.batch_indices), self._lines.max_length, WORDS_PER_TOKEN
        words = random_uint64(self._seed, draw.step, math.prod(shape), RandomStream.MASKS).reshape(shape)
        inputs, targets = mask_tokens(tokens, lengths, words[draw.rows], self._masking)
        return _padded_batch(inputs, targets, lengths, self._weight(draw))

    def _weight(self, draw: MicroBatch) -> float:
        n_targets = n_asked(self._lines.lengths[draw.batch_indices], self._masking.mask_fraction)
        return float(n_targets[draw.rows].mean() / n_targets.mean())


class MaskedValidationLines(Dataset[Batch]):
    """Every line once, in order. Its masks are a function of its number alone, so that any two models, whatever
    their seeds and batches, are asked the same."""

    def __init__(self, lines: Lines, masking: Masking) -> None:
        self.masking = masking
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        tokens, lengths = self._lines.gather(np.asarray(indices, dtype=np.int64))
        shape = tokens.shape[1], WORDS_PER_TOKEN
        words = [
            random_uint64(0, index, math.prod(shape), RandomStream.VALIDATION_MASKS).reshape(shape) for index in indices
        ]
        inputs, targets = mask_tokens(tokens, lengths, np.stack(words), self.masking)
        return _padded_batch(inputs, targets, lengths)


def _padded_batch(inputs: np.ndarray, targets: np.ndarray, lengths: np.ndarray, weight: float = 1.0) -> Batch:
    return Batch(
        as_tensor(inputs), as_tensor(targets), n_tokens=int(lengths.sum()), lengths=as_tensor(lengths), weight=weight
    )


def unigram_baseline(
    train_tokens: Tokens, newline_ids: np.ndarray, validations: Sequence[MaskedValidationLines]
) -> dict[str, float]:
    """What can be had of the validation targets without reading anything around them.

    `unigram_loss_nats` is the mean cross entropy under the frequencies of the training tokens, newlines left out
    and one added to each count, and `unigram_accuracy` the share of targets that are the most frequent token.
    """
    n_symbols = validations[0].masking.n_symbols
    counts = _token_counts(train_tokens, n_symbols) + 1.0
    counts[newline_ids] = 0
    asked = np.sum([_target_counts(validation) for validation in validations], axis=0)
    seen = asked > 0
    nats = np.log(counts.sum()) - np.log(counts[seen])
    return {
        "unigram_loss_nats": float(asked[seen] @ nats / asked.sum()),
        "unigram_accuracy": float(asked[counts.argmax()] / asked.sum()),
    }


def _token_counts(tokens: Tokens, n_symbols: int) -> np.ndarray:
    """(n_symbols,): how often each comes; of more than MOST_COUNTED tokens, in blocks spread evenly over them."""
    n_blocks = -(-len(tokens) // COUNTED_AT_ONCE)
    blocks = np.linspace(0, n_blocks - 1, min(n_blocks, MOST_COUNTED // COUNTED_AT_ONCE)).astype(np.int64)
    counts = np.zeros(n_symbols, dtype=np.int64)
    for first in (blocks * COUNTED_AT_ONCE).tolist():
        counts += np.bincount(np.asarray(tokens[first : first + COUNTED_AT_ONCE]), minlength=n_symbols)
    return counts


def _target_counts(validation: MaskedValidationLines, batch_size: int = 256) -> np.ndarray:
    """(n_symbols,) int64: how often each symbol is asked for."""
    counts = np.zeros(validation.masking.n_symbols, dtype=np.int64)
    for first in range(0, len(validation), batch_size):
        targets = validation.__getitems__(range(first, min(first + batch_size, len(validation)))).targets
        counts += np.bincount(targets[targets != IGNORE_INDEX].numpy(), minlength=validation.masking.n_symbols)
    return counts
