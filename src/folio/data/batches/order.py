"""Which indices make up the batch of a step: pure functions of (seed, step).

An index is whatever the dataset numbers: the start of a window in `windows` and `prefixes`, a line in `masking`.

There is no loader state to save, memory does not grow with the corpus, and any number of workers, devices or
accumulated micro-batches sees the same global batches. A resumed run computes the step that it is at.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from folio.data.batches.mixture import Mixture
from folio.data.batches.random_numbers import (
    RandomStream,
    evenly_spread,
    permuted,
    random_uint64,
    uniform_integers,
)


def random_indices(n_indices: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Return (B,) int64, independent and uniform in [0, n_indices), like nanoGPT's get_batch."""
    return uniform_integers(random_uint64(seed, step, batch_size, RandomStream.WINDOW_ORDER), n_indices)


def shuffled_indices(n_indices: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Return (B,) int64 in which each index occurs once an epoch. A batch may extend into the next epoch."""
    return permuted(_draws(step, batch_size), n_indices, seed)


def even_indices(n_indices: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Return (B,) int64, spread evenly over [0, n_indices) in each batch and over any number of batches."""
    return evenly_spread(_draws(step, batch_size), n_indices, seed)


def _draws(step: int, batch_size: int) -> np.ndarray:
    """Return the numbers of a batch's sequences among all of the run: (B,) int64."""
    return np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)


WINDOW_ORDERS = {"random": random_indices, "shuffled": shuffled_indices, "even": even_indices}
"""Values of data.window_order."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """One micro-batch as part of its step, since a dataset may need to know the whole global batch.

    `batch_indices` (B_global,) int64 are the indices of the global batch; `rows` are those of this micro-batch.

        >>> MicroBatch(step=0, batch_indices=np.array([7, 3, 5, 1]), rows=slice(2, 4)).indices.tolist()
        [5, 1]
    """

    step: int
    batch_indices: np.ndarray
    rows: slice

    @property
    def indices(self) -> np.ndarray:
        """Indices of this micro-batch alone: (B,) int64."""
        return self.batch_indices[self.rows]


@dataclass(frozen=True)
class TrainingBatches(Sampler[MicroBatch]):
    """The micro-batches of one rank, for the `batch_sampler` of a loader.

    The global batch of a step depends on neither `micro_batch_size` nor `world_size`: each rank takes its own rows of
    it, in order, and divides them into micro-batches.

    `n_indices` is the length of the dataset. Iteration begins at `first_step`, but the length counts from step 0,
    because a resumed Lightning loop counts the batches of the whole run.

        >>> batches = TrainingBatches("shuffled", 10, seed=1, batch_size=4, micro_batch_size=2, first_step=0, n_steps=3)
        >>> len(batches), len(next(iter(batches)).indices)
        (6, 2)
    """

    window_order: str
    n_indices: int
    seed: int
    batch_size: int
    micro_batch_size: int
    first_step: int
    n_steps: int
    rank: int = 0
    world_size: int = 1
    mixture: Mixture | None = None
    """Order of several corpora; None: `window_order` draws from [0, n_indices)."""
    one_batch: bool = False
    """Whether every step has the batch of step 0."""

    def __post_init__(self) -> None:
        assert self.window_order in WINDOW_ORDERS
        assert self.batch_size % (self.micro_batch_size * self.world_size) == 0
        assert 0 <= self.rank < self.world_size

    def __len__(self) -> int:
        return self.n_steps * (self.batch_size // (self.micro_batch_size * self.world_size))

    def __iter__(self) -> Iterator[MicroBatch]:
        n_own = self.batch_size // self.world_size
        own = range(self.rank * n_own, (self.rank + 1) * n_own, self.micro_batch_size)
        for number in range(self.first_step, self.n_steps):
            step = 0 if self.one_batch else number
            indices = self.indices(step)
            for first in own:
                yield MicroBatch(step, indices, slice(first, first + self.micro_batch_size))

    def indices(self, step: int) -> np.ndarray:
        """Return the global batch of a step: (B,) int64."""
        if self.mixture is not None:
            return self.mixture.indices(self.window_order, self.seed, step, self.batch_size)
        return WINDOW_ORDERS[self.window_order](self.n_indices, self.seed, step, self.batch_size)
