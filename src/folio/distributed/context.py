"""Communication between the processes of a run, apart from gradients. Imports no lightning."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from folio.distributed.environment import SINGLE_RANK, RankInfo

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest wait for a process that is alive but silent, for example while rank 0 writes a checkpoint or a sample.
A process that died is noticed within seconds, by its closed connection and by the launcher."""


class DistributedContext:
    """The processes of a run, as one of them sees them.

    Every method is a collective: all processes must call it, at the same point. In a single process it returns its own
    value and communicates nothing. Values travel over gloo between main memories, so no process waits for a GPU.
    """

    def __init__(self, rank_info: RankInfo = SINGLE_RANK, group: dist.ProcessGroup | None = None) -> None:
        self.rank_info = rank_info
        self._group = group

    @property
    def rank(self) -> int:
        return self.rank_info.rank

    @property
    def world_size(self) -> int:
        return self.rank_info.world_size

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank_info.is_global_zero

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, in float64. Shapes: any.

        Added up in the order of the ranks, so that every process gets the same bits.
        """
        if self.world_size == 1:
            return values
        own = values.detach().cpu().double().contiguous()
        gathered = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(gathered, own, group=self._group)
        return torch.stack(gathered).sum(dim=0)

    def all_reduce_max(self, number: int) -> int:
        """Return the largest number that a process passes."""
        if self.world_size == 1:
            return number
        tensor = torch.tensor([number])
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return int(tensor.item())

    def all_true(self, flag: bool) -> bool:
        """Return whether every process passes True."""
        return self.all_reduce_max(int(not flag)) == 0

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def broadcast(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0, and return its result on every rank.

        Raises: what `function` raises on rank 0, and then SystemExit on the others.
        """
        if self.world_size == 1:
            return function()
        message: list[Any] = [None]
        if self.is_global_zero:
            try:
                message = [(function(),)]
            except BaseException:
                dist.broadcast_object_list([None], src=0, group=self._group)
                raise
        dist.broadcast_object_list(message, src=0, group=self._group)
        if message[0] is None:
            raise SystemExit(2)
        return message[0][0]

    def destroy(self) -> None:
        """Close the connections, once all processes have reached the end of the run."""
        if self.world_size > 1:
            dist.destroy_process_group()


SINGLE_PROCESS = DistributedContext()
"""The context of a process that trains alone."""


def init_process_group(rank_info: RankInfo, accelerator: str) -> DistributedContext:
    """Connect to the other processes, by way of MASTER_ADDR and MASTER_PORT.

    Gradients travel over nccl between GPUs and over gloo between CPUs.
    """
    device = None
    if accelerator == "gpu":
        device = torch.device("cuda", rank_info.local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device is None else "nccl",
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        timeout=TIMEOUT,
        device_id=device,
    )
    group = None if device is None else dist.new_group(backend="gloo", timeout=TIMEOUT)
    return DistributedContext(rank_info, group)
