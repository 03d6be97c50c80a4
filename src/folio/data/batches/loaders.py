"""Loaders over the datasets of `windows`, `masking` and `prefixes`. Imports no lightning."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler

from folio.data.batches.batch import IGNORE_INDEX, Batch, BatchDataset


class MakesBatches(Protocol):
    """A `BatchDataset`, or anything else with its method `batch`."""

    def batch(self, draw: Any, /) -> Batch: ...


def validation_loader(
    dataset: BatchDataset, batch_size: int, rank: int = 0, world_size: int = 1, n_batches: int | None = None
) -> DataLoader[Batch]:
    """Return a loader of the whole dataset in order, every sequence once, or of its first `n_batches`.

    Several processes share the batches.
    """
    batches: BatchSampler | list[list[int]] = BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False)
    if n_batches is not None:
        batches = list(islice(batches, n_batches))
    if world_size == 1:
        return token_loader(dataset, batches)
    return token_loader(MaskDummyBatches(dataset), DistributedBatchSampler(batches, rank, world_size))


class DummyIndices(list[int]):
    """Indices of a batch that only keeps the ranks in step. Another process counts its targets.

    Example:

        >>> DummyIndices([0, 1])
        [0, 1]
    """


class DistributedBatchSampler(Sampler[list[int]]):
    """Every `world_size`-th batch, with the same number of batches for each rank.

    The number must be the same because all ranks take part in gathering sharded weights for each batch. If the batches
    cannot be divided evenly, the last ones are DummyIndices.

        >>> batches = BatchSampler(range(5), batch_size=2, drop_last=False)
        >>> list(DistributedBatchSampler(batches, rank=1, world_size=2))  # the second of its batches is a dummy
        [[2, 3], [0, 1]]
    """

    def __init__(self, batches: BatchSampler | list[list[int]], rank: int, world_size: int) -> None:
        assert 0 <= rank < world_size
        self._batches, self._rank, self._world_size = batches, rank, world_size

    def __len__(self) -> int:
        return -(-len(self._batches) // self._world_size)

    def __iter__(self) -> Iterator[list[int]]:
        n_own = 0
        for index, batch in enumerate(self._batches):
            if index == 0:
                first = batch
            if index % self._world_size == self._rank:
                n_own += 1
                yield batch
        if n_own < len(self):
            yield DummyIndices(first)


class MaskDummyBatches:
    """A dataset that sets all targets of a batch of DummyIndices to IGNORE_INDEX.

    Example:

        >>> from folio.data.batches.windows import ValidationWindows
        >>> dataset = MaskDummyBatches(ValidationWindows(range(9), context_length=4))
        >>> dataset.batch(DummyIndices([0])).targets.tolist()
        [[-100, -100, -100, -100]]
    """

    def __init__(self, dataset: MakesBatches) -> None:
        self._dataset = dataset

    def batch(self, indices: list[int]) -> Batch:
        batch = self._dataset.batch(indices)
        if isinstance(indices, DummyIndices):
            return batch._replace(targets=torch.full_like(batch.targets, IGNORE_INDEX))
        return batch


def token_loader(dataset: MakesBatches, batches: Iterable[Any]) -> DataLoader[Batch]:
    """Return a loader of the batches that a dataset makes of what `batches` yields.

    They are made in this process: a gather is cheaper than a worker.

    The loader has a generator of its own. Without one, each iteration would draw a seed from the global generator, and
    one more validation would change the dropout of every later step.
    """
    wrapped = _WholeBatches(dataset)
    return DataLoader(wrapped, batch_sampler=batches, collate_fn=_identity, generator=torch.Generator())


class _WholeBatches(Dataset[Batch]):
    """Gives a DataLoader whole batches: torch passes what the batch sampler yields to `__getitems__`."""

    def __init__(self, dataset: MakesBatches) -> None:
        self._dataset = dataset

    def __getitems__(self, draw: Any) -> Batch:
        return self._dataset.batch(draw)


def _identity(batch: Any) -> Any:
    return batch
