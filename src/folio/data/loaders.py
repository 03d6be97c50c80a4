"""Loaders over windows. Imports no lightning."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from folio.data.windows import ValidationWindows

Batch = tuple[Tensor, Tensor]
"""Tokens and targets, both (B, T) int64."""


def validation_loader(tokens: np.ndarray, context_length: int, batch_size: int) -> DataLoader[Batch]:
    """A whole split in order, every target once."""
    windows = ValidationWindows(tokens, context_length)
    return token_loader(windows, BatchSampler(SequentialSampler(windows), batch_size, drop_last=False))


def token_loader(windows: Dataset[Batch], batches: Iterable[Any]) -> DataLoader[Batch]:
    """A loader whose dataset makes a whole batch at once, in this process: a gather is cheaper than a worker.

    The generator is the loader's own. Without one, each iteration would draw a seed from the global generator,
    and a validation more or less would change the dropout of every step after it.
    """
    return DataLoader(windows, batch_sampler=batches, collate_fn=_as_it_is, generator=torch.Generator())


def _as_it_is(batch: Any) -> Any:
    return batch
