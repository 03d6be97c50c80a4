"""Dropout and the RMS norm for the CPU: torch's layers with the same names and parameters, but faster.

In a small model they take a good part of a step: torch draws a whole random number for each element of a dropout mask,
and makes an RMS norm of six operations, each of which reads and writes memory again, and keeps what it read.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEVELS = 1 << 16
"""Probabilities that a dropout mask can have: multiples of 1 / LEVELS."""


class Dropout(nn.Dropout):
    """nn.Dropout, which on a CPU draws 16 bits for an element, four elements at a time, from torch's own generator.

    The probability is p up to 1 / 131,072, and the kept elements are divided by the probability that they really have.

    Source: Srivastava et al. 2014, section 4; kept elements grow in training instead of shrinking afterwards.

    Shapes: (...) -> (...).

        >>> dropped = Dropout(0.25)(torch.ones(1000))
        >>> [round(value, 3) for value in dropped.unique().tolist()]
        [0.0, 1.333]
    """

    def forward(self, hidden: Tensor) -> Tensor:
        n_dropped = round(self.p * LEVELS)
        if not self.training or self.inplace or n_dropped in (0, LEVELS) or not _runs_on_cpu(hidden):
            return super().forward(hidden)
        draws = torch.empty(-(-hidden.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        bits = draws.view(torch.int16)[: hidden.numel()].view(hidden.shape)  # from -LEVELS / 2
        kept = bits >= n_dropped - LEVELS // 2
        return hidden * kept.to(hidden.dtype).mul_(LEVELS / (LEVELS - n_dropped))


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm over the last dimension, which on a CPU keeps only its input for the backward pass.

    Source: Zhang and Sennrich 2019, section 4.

    Shapes: (..., D) -> (..., D).

        >>> normed = RMSNorm(2, eps=1e-6)(torch.tensor([3.0, -3.0]))
        >>> [round(value, 3) for value in normed.tolist()]
        [1.0, -1.0]
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.dtype != torch.float32 or not torch.is_grad_enabled() or not _runs_on_cpu(hidden):
            return super().forward(hidden)
        return _RMSNorm.apply(hidden, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    """hidden (..., D), weight (D,) -> hidden / rms(hidden) * weight. It can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        inverse_rms = (norm.square_() / hidden.size(-1)).add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(hidden, inverse_rms, weight)
        return (hidden * inverse_rms).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, inverse_rms, weight = ctx.saved_tensors
        normed = hidden * inverse_rms
        products = (gradient * normed).flatten(end_dim=-2)  # (N, D)
        # With n = hidden / rms and g = gradient * weight, the gradient is (g - n mean(g n)) / rms.
        means = (products @ weight / hidden.size(-1)).view_as(inverse_rms)
        hidden_gradient = torch.addcmul(normed.mul_(-means), gradient, weight).mul_(inverse_rms)
        return hidden_gradient, products.sum(dim=0), None


def _runs_on_cpu(hidden: Tensor) -> bool:
    return hidden.device.type == "cpu" and not torch.compiler.is_compiling()
