"""Loaders over the datasets of `windows`, `masking` and `prefixes`. Imports no lightning."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler

from folio.data.batches.batch import IGNORE_INDEX, Batch


def validation_loader(
    dataset: Dataset[Batch], batch_size: int, rank: int = 0, world_size: int = 1
) -> DataLoader[Batch]:
    """A whole dataset in order, every item once; of many processes each takes its share of the batches."""
    assert isinstance(dataset, Sized)
    batches = BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False)
    if world_size == 1:
        return token_loader(dataset, batches)
    return token_loader(MaskDummyBatches(dataset), DistributedBatchSampler(batches, rank, world_size))


class DummyIndices(list[int]):
    """Indices of a batch that takes part for the sake of its shape: another process counts its targets."""


class DistributedBatchSampler(Sampler[list[int]]):
    """Every `world_size`-th batch, as many for each rank: sharded weights are gathered for each batch by all of them.

    Where the batches cannot be dealt out evenly, the last ones are `DummyIndices`.
    """

    def __init__(self, batches: BatchSampler, rank: int, world_size: int) -> None:
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


class MaskDummyBatches(Dataset[Batch]):
    """A dataset that leaves the targets out of a batch of `DummyIndices` indices."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitems__(self, indices: list[int]) -> Batch:
        batch: Batch = self._dataset.__getitems__(indices)
        if isinstance(indices, DummyIndices):
            return batch._replace(targets=torch.full_like(batch.targets, IGNORE_INDEX))
        return batch


def token_loader(dataset: Dataset[Batch], batches: Iterable[Any]) -> DataLoader[Batch]:
    """A loader whose dataset makes a whole batch at once, in this process: a gather is cheaper than a worker.

    The generator is the loader's own. Without one, each iteration would draw a seed from the global generator,
    and a validation more or less would change the dropout of every step after it.
    """
    return DataLoader(dataset, batch_sampler=batches, collate_fn=_as_it_is, generator=torch.Generator())


def _as_it_is(batch: Any) -> Any:
    return batch
