"""Attention to a causal window, for training on a CPU: scores that no window contains are never computed.

torch's attention takes a window as a mask, computes all scores, and hides most of them. With 256 tokens and windows of
64 that takes 1.3 times as long as this file, with 1,024 tokens and windows of 128 four times.
"""

from functools import cache
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from folio.models.masks import causal_mask

BLOCK = 64
"""Queries of a block, which share their keys. Fewer leave out more scores, in smaller products."""


def leaves_out_enough(q: Tensor, k: Tensor, window: int) -> bool:
    """Return whether `window_attention` is faster: in training, in float32 on a CPU, if blocks see half of the keys."""
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and 2 * (window + BLOCK) <= q.size(-2) + BLOCK
    )


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None = None) -> Tensor:
    """softmax(q k^T scale) v, where each position attends to itself and the window - 1 positions before it.

    The scale is 1 / sqrt(K) if it is None. Only q, k, v and the result are kept for the backward pass, which computes
    the weights again. It can be differentiated once.

    Source: Beltagy et al. 2020 (Longformer), section 3.1; the backward pass as in Dao et al. 2022 (FlashAttention),
    appendix B.2.

    Shapes: q, k, v (B, H, T, K) -> (B, H, T, K).

        >>> q, k, v = torch.zeros(3, 1, 2, 5, 4)
        >>> window_attention(q, k, v, window=3).shape
        torch.Size([1, 2, 5, 4])
    """
    return _WindowAttention.apply(q, k, v, window, 1 / sqrt(q.size(-1)) if scale is None else scale)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        # in memory (B, T, H, K), which the next layer reads
        mixed = q.new_empty(q.transpose(1, 2).shape).transpose(1, 2)
        ctx.save_for_backward(q, k, v, mixed)
        ctx.window, ctx.scale = window, scale
        rows, keys, values = q.flatten(end_dim=1), k.flatten(end_dim=1), v.flatten(end_dim=1)  # (B H, T, K)
        for queries, seen in _blocks(q.size(-2), window):
            weights = _weights(rows[:, queries], keys[:, seen], window, scale)
            mixed[:, :, queries] = torch.bmm(weights, values[:, seen]).view_as(mixed[:, :, queries])
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mixed = ctx.saved_tensors
        rows, keys, values, gradients = (heads.flatten(end_dim=1) for heads in (q, k, v, gradient))
        # The gradient of the scores is p (g - sum(p g)) for g = gradient v^T, and the sum is that of gradient * mixed.
        sums = (gradient * mixed).sum(dim=-1, keepdim=True).flatten(end_dim=1)  # (B H, T, 1)
        q_gradient, k_gradient, v_gradient = torch.empty_like(rows), torch.zeros_like(keys), torch.zeros_like(values)
        for queries, seen in _blocks(q.size(-2), ctx.window):
            weights = _weights(rows[:, queries], keys[:, seen], ctx.window, ctx.scale)
            v_gradient[:, seen] += torch.bmm(weights.mT, gradients[:, queries])
            scores = torch.bmm(gradients[:, queries], values[:, seen].mT).sub_(sums[:, queries]).mul_(weights)
            q_gradient[:, queries] = torch.bmm(scores, keys[:, seen])
            k_gradient[:, seen] += torch.bmm(scores.mT, rows[:, queries])
        q_gradient, k_gradient = q_gradient.mul_(ctx.scale), k_gradient.mul_(ctx.scale)
        return q_gradient.view(q.shape), k_gradient.view(q.shape), v_gradient.view(q.shape), None, None


def _blocks(n_tokens: int, window: int) -> list[tuple[slice, slice]]:
    """Return the queries of each block, and the keys that at least one of them sees."""
    starts = range(0, n_tokens, BLOCK)
    ends = [min(start + BLOCK, n_tokens) for start in starts]
    return [
        (slice(start, end), slice(max(0, start + 1 - window), end)) for start, end in zip(starts, ends, strict=True)
    ]


def _weights(q: Tensor, k: Tensor, window: int, scale: float) -> Tensor:
    """Return what the last C of S positions attend to: (B H, C, K) and (B H, S, K) -> (B H, C, S)."""
    hidden = _hidden(q.size(1), k.size(1), window, q.dtype)
    return torch.softmax(torch.baddbmm(hidden, q, k.mT, alpha=scale), dim=-1)


@cache
def _hidden(n_queries: int, n_keys: int, window: int, dtype: torch.dtype) -> Tensor:
    """Return (C, S): -inf where the last C of S positions do not attend to a key, 0 elsewhere."""
    seen = causal_mask(n_queries, n_keys).triu(n_keys - n_queries - window + 1)
    return torch.zeros(n_queries, n_keys, dtype=dtype).masked_fill_(~seen, -inf)
