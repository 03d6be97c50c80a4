"""Muon, which orthogonalizes all matrices of one shape in one product."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MAX_STACKED = 1 << 23
"""Elements that are orthogonalized at a time. Large matrices keep the processors busy one by one, and need the room."""


class BatchedMuon(torch.optim.Muon):
    """torch.optim.Muon in fewer and larger operations, with fused projections divided into their parts.

    Args:
        fused_sizes: for matrices that hold several projections, the rows of each, which are orthogonalized separately.
        settings: those of torch.optim.Muon but adjust_lr_fn, which is match_rms_adamw.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        fused_sizes: Mapping[Tensor, Sequence[int]],
        **settings: Any,
    ) -> None:
        super().__init__(groups, adjust_lr_fn="match_rms_adamw", **settings)
        self.fused_sizes = fused_sizes

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                directions = self.parts(matrix, self.direction(matrix, group))
                for part in zip(self.parts(matrix, matrix), directions, strict=True):
                    by_shape[part[0].shape].append(part)
            for parts in by_shape.values():
                for stack in _stacks(parts):
                    updates = orthogonalize(torch.stack([direction for _, direction in stack]), group)
                    for (weights, _), update in zip(stack, updates, strict=True):
                        weights.add_(update, alpha=step_size(weights.shape, group))
        return None

    def direction(self, matrix: Any, group: dict[str, Any]) -> Any:
        """Take the gradient of a matrix into its momentum, and return where that points: a tensor like the matrix."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        momentum = state["momentum_buffer"]
        momentum.lerp_(matrix.grad, 1 - group["momentum"])
        return matrix.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum

    def parts(self, matrix: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Divide values of a matrix's shape into those of the projections that it holds."""
        return values.split(self.fused_sizes.get(matrix, matrix.shape[:1]))


def step_size(shape: torch.Size, group: dict[str, Any]) -> float:
    """Return the factor on an orthogonalized matrix that gives it the root mean square of an update of AdamW.

    Source: Liu et al. 2025, section 2.2.
    """
    return -0.2 * max(shape) ** 0.5 * group["lr"]


def orthogonalize(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """Bring the singular values of each matrix near 1, in bfloat16. Shapes: (k, m, n) -> (k, m, n).

    Source: Jordan et al. 2024, Newton-Schulz iteration of degree 5.
    """
    a, b, c = group["ns_coefficients"]
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).bfloat16()
    # One norm after the other is rounded as torch's Muon rounds it.
    x = x / torch.stack([matrix.norm() for matrix in x]).clamp(min=group["eps"])[:, None, None]
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _stacks(parts: list[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Divide parts of one shape into lists of at most MAX_STACKED elements."""
    n = max(1, MAX_STACKED // parts[0][0].numel())
    for first in range(0, len(parts), n):
        yield parts[first : first + n]
