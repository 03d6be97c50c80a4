"""The processes that train one model together, and what they tell each other beside gradients. No lightning here."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from folio.processes import Place

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another that lives and is silent: while the first writes a checkpoint, or a sample.
One that died is noticed in seconds, by the connection that ends and by whoever started the processes."""


class World:
    """All processes of a run, seen from one of them. Alone, each answer is one's own, and nothing is sent.

    Every method but the properties is a meeting: all processes must call it, at the same point. What is said goes
    over gloo between main memories, so that no GPU has to be waited for.
    """

    def __init__(self, place: Place | None = None, group: dist.ProcessGroup | None = None) -> None:
        self.place = place
        self._group = group

    @property
    def size(self) -> int:
        return self.place.size if self.place else 1

    @property
    def rank(self) -> int:
        return self.place.rank if self.place else 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes for all."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in float64: added up in the order of the ranks, so that it is the same bits in
        each. Shapes: any."""
        if self.size == 1:
            return values
        mine = values.detach().cpu().double().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self._group)
        return torch.stack(parts).sum(dim=0)

    def largest(self, number: int) -> int:
        """Of the numbers that the processes bring."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number])
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return int(tensor.item())

    def all(self, flag: bool) -> bool:
        """Whether it holds in each."""
        return self.largest(int(not flag)) == 0

    def gather(self, value: T) -> list[T]:
        """What each brings, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first makes, for all. Raises: in the first what `make` does, and SystemExit in the others."""
        if self.size == 1:
            return make()
        message: list[Any] = [None]
        if self.is_first:
            try:
                message = [("made", make())]
            except BaseException:
                dist.broadcast_object_list([None], src=0, group=self._group)
                raise
        dist.broadcast_object_list(message, src=0, group=self._group)
        if message[0] is None:
            raise SystemExit(2)
        return message[0][1]

    def leave(self) -> None:
        """Close the connections, at the end of a run that all have reached."""
        if self.size > 1:
            dist.destroy_process_group()


def join(place: Place, accelerator: str) -> World:
    """Meet the others at MASTER_ADDR and MASTER_PORT: gradients go over nccl between GPUs, over gloo between CPUs."""
    device = None
    if accelerator == "gpu":
        device = torch.device("cuda", place.local_rank)
        torch.cuda.set_device(device)
    backend = "gloo" if device is None else "nccl"
    dist.init_process_group(backend, rank=place.rank, world_size=place.size, timeout=PATIENCE, device_id=device)
    group = None if device is None else dist.new_group(backend="gloo", timeout=PATIENCE)
    return World(place, group)
