"""Muon for matrices whose rows are divided among processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from folio.optim.batched_muon import BatchedMuon, orthogonalize, step_size


class ShardedMuon(BatchedMuon):
    """Muon over DTensors. Each process orthogonalizes other matrices, and all send each other the results.

    Momentum and weights stay divided. For n matrices at a time, one for each of n processes, the directions of all are
    gathered; each process keeps one, orthogonalizes it and sends its rows to where they belong. So a process holds at
    most two whole matrices, and the processes share the products, which in each of them would take as long as a step of
    training does on 64 GPUs (docs/scale.md).

    Source: Liu et al. 2025, section 2.3 (Distributed Muon).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            n_processes = matrices[0].device_mesh.size() if matrices else 1
            for first in range(0, len(matrices), n_processes):
                self._update(matrices[first : first + n_processes], group)
        return None

    def _update(self, matrices: list[DTensor], group: dict[str, Any]) -> None:
        mesh = matrices[0].device_mesh
        rank, own = mesh.get_local_rank(), None
        for owner, matrix in enumerate(matrices):
            direction = self.direction(matrix, group).full_tensor()
            if owner == rank:
                own = self._orthogonal_update(matrix, direction, group)
        for owner, matrix in enumerate(matrices):
            sent = own if owner == rank else torch.empty(matrix.shape, dtype=matrix.dtype, device=mesh.device_type)
            assert sent is not None
            update = distribute_tensor(sent, mesh, [Shard(0)], src_data_rank=owner)
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update)

    def _orthogonal_update(self, matrix: DTensor, direction: Tensor, group: dict[str, Any]) -> Tensor:
        parts = self.parts(matrix, direction)
        updates = [orthogonalize(part[None], group)[0].to(matrix.dtype) for part in parts]
        return torch.cat([step_size(part.shape, group) * update for part, update in zip(parts, updates, strict=True)])
