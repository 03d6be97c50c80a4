"""Means of the training loss and accuracy that are computed on the device."""

from typing import Any

import torch
from torch import Tensor

from folio.distributed.context import SINGLE_PROCESS, DistributedContext


class RunningMeans:
    """Sums up loss and accuracy on the device; only `compute_and_reset` waits for it."""

    def __init__(self, distributed: DistributedContext = SINGLE_PROCESS) -> None:
        self._distributed = distributed
        self._sums: Tensor | None = None  # (2,) loss, accuracy
        self._count = 0
        self._committed: tuple[Tensor | None, int] = None, 0

    def update(self, loss: Tensor, accuracy: Tensor) -> None:
        """Add one micro-batch: two scalars."""
        values = torch.stack((loss.detach().float(), accuracy))
        # After a resume the sums are on the CPU.
        self._sums = values if self._sums is None else self._sums.to(values.device) + values
        self._count += 1

    def commit(self) -> None:
        """Keep the micro-batches so far: their optimizer step is taken."""
        self._committed = self._sums, self._count

    def rollback(self) -> None:
        """Drop the micro-batches since `commit`: their optimizer step is skipped."""
        self._sums, self._count = self._committed

    def compute_and_reset(self) -> tuple[float, float] | None:
        """Return the mean loss in nats and the mean accuracy since the last call; None if nothing was counted.

        All processes must call it at the same point.
        """
        if self._sums is None:
            return None
        count = self._count * self._distributed.world_size
        loss, accuracy = (self._distributed.all_reduce_sum(self._sums) / count).tolist()
        self._sums, self._count = self._committed = None, 0
        return loss, accuracy

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._count = self._committed = state["sums"], state["count"]
