"""Loaders over the datasets of `windows`, `masking` and `prefixes`. Imports no lightning."""

from collections.abc import Iterable, Sized
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from folio.data.batch import Batch


def validation_loader(dataset: Dataset[Batch], batch_size: int) -> DataLoader[Batch]:
    """A whole dataset in order, every item once."""
    assert isinstance(dataset, Sized)
    return token_loader(dataset, BatchSampler(SequentialSampler(dataset), batch_size, drop_last=False))


def token_loader(dataset: Dataset[Batch], batches: Iterable[Any]) -> DataLoader[Batch]:
    """A loader whose dataset makes a whole batch at once, in this process: a gather is cheaper than a worker.

    The generator is the loader's own. Without one, each iteration would draw a seed from the global generator,
    and a validation more or less would change the dropout of every step after it.
    """
    return DataLoader(dataset, batch_sampler=batches, collate_fn=_as_it_is, generator=torch.Generator())


def _as_it_is(batch: Any) -> Any:
    return batch
