"""Sequences drawn from several corpora by their shares; each batch is still a pure function of (seed, step).

The sequences of a run are numbered: draw 0, 1, 2 and so on. In each block of MIXTURE_BLOCK draws every corpus has a
fixed number of draws, as its share requires, and a permutation decides which ones. So the corpus that a draw reads, and
the number of earlier draws from that corpus, can be computed without looking at the other draws.
"""

from dataclasses import dataclass

import numpy as np

from folio.data.batches.random_numbers import (
    Permutation,
    RandomStream,
    evenly_spread,
    permuted,
    random_uint64,
    uniform_integers,
)
from folio.data.prepared import MIXTURE_BLOCK


def draws_per_block(shares: tuple[float, ...]) -> np.ndarray:
    """Return how many draws of a block each corpus gets, (n_corpora,) int64: by largest remainders, at least one."""
    exact = np.array(shares) / sum(shares) * MIXTURE_BLOCK
    n_draws = np.maximum(np.floor(exact).astype(np.int64), 1)
    order = np.argsort(n_draws - exact, kind="stable")  # those that were rounded down most come first
    for number in range(MIXTURE_BLOCK - int(n_draws.sum())):
        n_draws[order[number % len(order)]] += 1
    n_draws[n_draws.argmax()] -= n_draws.sum() - MIXTURE_BLOCK  # what raising small shares to one took too much
    return n_draws


@dataclass(frozen=True)
class Mixture:
    """The order in which several corpora are read. The indices of corpus i are `offsets[i]` + [0, `sizes[i]`).

    Example:

        >>> mixture = Mixture(shares=(0.5, 0.5), sizes=(10, 10), offsets=(0, 100))
        >>> indices = mixture.indices("shuffled", seed=1, step=0, batch_size=4)
        >>> all(0 <= index < 10 or 100 <= index < 110 for index in indices.tolist())
        True
    """

    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]

    def locate(self, seed: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the corpus of each draw, and its number among the draws of that corpus. All (B,) int64.

        Every number occurs once. Within a block the numbers of a corpus do not ascend.
        """
        counts = draws_per_block(self.shares)
        ends = np.cumsum(counts)
        blocks, slots = np.divmod(draws, MIXTURE_BLOCK)
        corpora, numbers = np.empty_like(draws), np.empty_like(draws)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            values = Permutation(MIXTURE_BLOCK, seed, block, RandomStream.MIXTURE)(slots[here])
            corpus = np.searchsorted(ends, values, side="right")
            corpora[here] = corpus
            numbers[here] = block * counts[corpus] + values - (ends - counts)[corpus]
        return corpora, numbers

    def indices(self, window_order: str, seed: int, step: int, batch_size: int) -> np.ndarray:
        """Return the global batch of a step: (B,) int64."""
        draws = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
        corpora, numbers = self.locate(seed, draws)
        bits = random_uint64(seed, step, batch_size, RandomStream.WINDOW_ORDER)
        indices = np.empty(batch_size, dtype=np.int64)
        for corpus in np.unique(corpora).tolist():
            here, size = corpora == corpus, self.sizes[corpus]
            if window_order == "random":
                own = uniform_integers(bits[here], size)
            elif window_order == "even":
                own = evenly_spread(numbers[here], size, seed, corpus)
            else:  # each corpus has an order of its own, even if two have the same size
                own = permuted(numbers[here], size, seed, corpus + 1)
            indices[here] = self.offsets[corpus] + own
        return indices
