"""The processes that train one model together, and what they tell each other beside gradients. No lightning here."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from folio.distributed.environment import RankInfo

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another that lives and is silent: while the first writes a checkpoint, or a sample.
One that died is noticed in seconds, by the connection that ends and by whoever started the processes."""


class DistributedContext:
    """All processes of a run, seen from one of them. Alone, each answer is one's own, and nothing is sent.

    Every method but the properties is a meeting: all processes must call it, at the same point. What is said goes
    over gloo between main memories, so that no GPU has to be waited for.
    """

    def __init__(self, rank_info: RankInfo | None = None, group: dist.ProcessGroup | None = None) -> None:
        self.rank_info = rank_info
        self._group = group

    @property
    def size(self) -> int:
        return self.rank_info.size if self.rank_info else 1

    @property
    def rank(self) -> int:
        return self.rank_info.rank if self.rank_info else 0

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes for all."""
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in float64: added up in the order of the ranks, so that it is the same bits in
        each. Shapes: any."""
        if self.size == 1:
            return values
        mine = values.detach().cpu().double().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self._group)
        return torch.stack(parts).sum(dim=0)

    def all_reduce_max(self, number: int) -> int:
        """Of the numbers that the processes bring."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number])
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return int(tensor.item())

    def all_ranks(self, flag: bool) -> bool:
        """Whether it holds in each."""
        return self.all_reduce_max(int(not flag)) == 0

    def all_gather(self, value: T) -> list[T]:
        """What each brings, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def broadcast(self, make: Callable[[], T]) -> T:
        """What the first makes, for all. Raises: in the first what `make` does, and SystemExit in the others."""
        if self.size == 1:
            return make()
        message: list[Any] = [None]
        if self.is_global_zero:
            try:
                message = [("made", make())]
            except BaseException:
                dist.broadcast_object_list([None], src=0, group=self._group)
                raise
        dist.broadcast_object_list(message, src=0, group=self._group)
        if message[0] is None:
            raise SystemExit(2)
        return message[0][1]

    def destroy(self) -> None:
        """Close the connections, at the end of a run that all have reached."""
        if self.size > 1:
            dist.destroy_process_group()


SINGLE_PROCESS = DistributedContext()
"""The context of a process that trains alone: every collective returns its own value."""


def init_process_group(rank_info: RankInfo, accelerator: str) -> DistributedContext:
    """Meet the others at MASTER_ADDR and MASTER_PORT: gradients go over nccl between GPUs, over gloo between CPUs."""
    device = None
    if accelerator == "gpu":
        device = torch.device("cuda", rank_info.local_rank)
        torch.cuda.set_device(device)
    backend = "gloo" if device is None else "nccl"
    dist.init_process_group(backend, rank=rank_info.rank, world_size=rank_info.size, timeout=PATIENCE, device_id=device)
    group = None if device is None else dist.new_group(backend="gloo", timeout=PATIENCE)
    return DistributedContext(rank_info, group)
