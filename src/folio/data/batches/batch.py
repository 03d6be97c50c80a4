"""What a loader hands to a model, whatever the objective."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""The target that torch's cross entropy leaves out, by its default."""


class Batch(NamedTuple):
    """B sequences, of which an objective takes the fields that it knows. Lightning moves a tuple to a device.

    `tokens` (B, T) int64 are what the model reads, and `targets` (B, T) int64 what it is asked for at each of them:
    IGNORE_INDEX where it is asked for nothing. Where rows differ in length, `lengths` (B,) int64 counts the tokens
    of each, and zeros pad its end; None says that no row is padded. `prefix` (B, S) int64 is what an encoder reads,
    padded with zeros at the end, and `prefix_lengths` (B,) int64 how much of each row is text.

    `n_tokens` counts the tokens that are read, those of the prefix included and padding left out: the pace of a run.

    `weight` makes the loss of a step the mean over all targets of the global batch, however it is cut: it is the
    share of these targets that this micro batch holds, times the number of micro batches, so that the mean over
    the micro batches of weight x mean loss is that mean.
    """

    tokens: Tensor
    targets: Tensor
    n_tokens: int
    lengths: Tensor | None = None
    prefix: Tensor | None = None
    prefix_lengths: Tensor | None = None
    weight: float = 1.0

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        moved: dict[str, Any] = {
            name: part.to(device) for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**moved)
