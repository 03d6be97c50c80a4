"""The batch that a loader gives to a model, for every objective."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

IGNORE_INDEX = -100
"""Target that is left out of the loss; the default of torch's cross entropy."""


class Batch(NamedTuple):
    """B sequences. An objective uses the fields that it needs. Lightning moves a tuple to a device.

    `tokens` (B, T) int64 are the inputs, and `targets` (B, T) int64 what the model should predict at each of them, or
    IGNORE_INDEX. If rows differ in length, they are padded with zeros at the end, and `lengths` (B,) int64 counts the
    tokens of each; None means that there is no padding. `prefix` (B, S) int64 is the input of an encoder, padded with
    zeros at the end, and `prefix_lengths` (B,) int64 is its length in each row.

    `documents` (B, T) int64 numbers the documents of each row from 0, if tokens attend only to their own.

    `n_tokens` counts the input tokens, including the prefix and without padding. Throughput is measured in these.

    `weight` makes the loss of a step the mean over all targets of the global batch, however the batch is divided: it is
    the share of these targets in this micro-batch times the number of micro-batches. So the mean over micro-batches of
    weight x mean loss is the mean over all targets.

        >>> batch = Batch(tokens=torch.tensor([[1, 2]]), targets=torch.tensor([[2, 3]]), n_tokens=2)
        >>> batch.to(torch.device("cpu")).targets.tolist()
        [[2, 3]]
    """

    tokens: Tensor
    targets: Tensor
    n_tokens: int
    lengths: Tensor | None = None
    prefix: Tensor | None = None
    prefix_lengths: Tensor | None = None
    documents: Tensor | None = None
    weight: float = 1.0

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on a device."""
        moved: dict[str, Any] = {
            name: part.to(device) for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**moved)


class BatchDataset(Dataset[Any]):
    """A dataset that makes whole batches, for `loaders.token_loader`: one gather is cheaper than collating items.

    The batch of some sequences can depend on more than their numbers: on the step, or on the longest of them. So there
    are no single items, unless a class adds them.

        >>> class Zeros(BatchDataset):
        ...     def __len__(self):
        ...         return 9
        ...     def batch(self, numbers):
        ...         tokens = torch.zeros(len(numbers), 4, dtype=torch.int64)
        ...         return Batch(tokens, tokens, n_tokens=tokens.numel())
        >>> from folio.data.batches.loaders import validation_loader
        >>> [len(batch.tokens) for batch in validation_loader(Zeros(), batch_size=5)]
        [5, 4]
    """

    def __len__(self) -> int:
        """Return the number of sequences."""
        raise NotImplementedError

    def batch(self, draw: Any, /) -> Batch:
        """Return the batch of a `MicroBatch` for training, or of a sequence of numbers for validation."""
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} makes whole batches and has no single items; "
            "load it with folio.data.batches.loaders.token_loader, or call its method batch"
        )
