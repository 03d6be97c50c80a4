"""Noise in the input of a language model: some tokens that it reads are replaced, while the targets stay as they are.

A model that cannot rely on any single token of its context memorizes less of a text that it reads several times.

Source: Xie et al. 2017, "Data Noising as Smoothing in Neural Network Language Models", section 3.1, with replacements
from the uniform distribution.
"""

from dataclasses import dataclass

import numpy as np

from folio.data.batches.order import MicroBatch
from folio.data.batches.random_numbers import RandomStream, random_uint64, uniform_fractions, uniform_integers

RANDOMS_PER_TOKEN = 2
"""Random numbers for each token: whether it is replaced, and by which symbol."""


@dataclass(frozen=True)
class TokenNoise:
    """Replaces the share `rate` of the tokens by symbols in [0, n_symbols), which can be the same.

    The choice is a function of (seed, step) and the place in the global batch.

        >>> noise = TokenNoise(rate=0.5, n_symbols=10, seed=1)
        >>> draw = MicroBatch(step=0, batch_indices=np.array([0]), rows=slice(0, 1))
        >>> noise.replace(np.arange(8)[None], draw).tolist()
        [[5, 1, 7, 9, 4, 5, 2, 5]]
    """

    rate: float
    n_symbols: int
    seed: int

    def replace(self, tokens: np.ndarray, micro_batch: MicroBatch) -> np.ndarray:
        """Return the tokens (B, T) int64 of a micro-batch with noise."""
        shape = len(micro_batch.batch_indices), tokens.shape[1], RANDOMS_PER_TOKEN
        random = random_uint64(self.seed, micro_batch.step, int(np.prod(shape)), RandomStream.TOKEN_NOISE)
        choices, symbols = np.moveaxis(random.reshape(shape)[micro_batch.rows], 2, 0)  # each (B, T)
        noisy: np.ndarray = np.where(
            uniform_fractions(choices) < self.rate, uniform_integers(symbols, self.n_symbols), tokens
        )
        return noisy
