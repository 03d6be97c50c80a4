"""Attention weights, for figures: computed beside a forward pass, which never holds them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from folio.models.blocks import CrossAttention, DotProductAttention, SelfAttention, repeat_heads
from folio.models.masks import AttentionMask


class AttentionMap(NamedTuple):
    """The attention of one layer.

    Example:

        >>> from folio.models import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4))
        >>> (layer,) = model.attention_maps(torch.tensor([[1, 2, 3]]))
        >>> layer.weights.shape
        torch.Size([1, 2, 3, 3])
        >>> layer.mask[0, 0].int().tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """

    scores: Tensor
    """(B, H, T, S): the products of queries and keys, neither scaled nor masked."""
    weights: Tensor
    """(B, H, T, S): rows sum to 1; exactly 0 for a key that is masked."""
    mask: Tensor
    """(B, 1, T, S) bool: the causal and the padding mask combined, True where a position may attend."""


def attention_map(q: Tensor, k: Tensor, mask: AttentionMask, scale: float | None = None) -> AttentionMap:
    """Compute the weights of `DotProductAttention` step by step, from q (B, H, T, K) and k (B, G, S, K).

    Products of K terms of unit variance have variance K. Their softmax would nearly choose the largest and leave no
    gradient for the rest, hence the division by sqrt(K) (Vaswani et al. 2017, section 3.2.1), unless there is a scale.
    """
    scores = q @ repeat_heads(k, q.size(1)).transpose(-2, -1)  # (B, H, T, S)
    scaled = scores / q.size(-1) ** 0.5 if scale is None else scores * scale
    allowed = mask.allowed(q.size(2), k.size(2), q.device)
    if mask.tensor is not None and mask.tensor.is_floating_point():
        scaled = scaled + mask.tensor
    weights = scaled.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    return AttentionMap(scores, weights, allowed[:, :1].expand(q.size(0), -1, -1, -1))


@contextmanager
def record_attention(
    model: nn.Module, layer_type: type[SelfAttention | CrossAttention]
) -> Iterator[list[AttentionMap]]:
    """Collect a map from each attention layer of this type that runs inside this context.

    Hooks do this, so that the layers need not know of it. Compiled blocks ignore hooks, so they run eagerly here.
    """
    maps: list[AttentionMap] = []

    def record(attend: nn.Module, inputs: tuple[Any, ...]) -> None:
        q, k, _, mask = inputs
        assert isinstance(attend, DotProductAttention)
        maps.append(attention_map(q, k, mask, attend.scale))

    layers = [module for module in model.modules() if isinstance(module, layer_type)]
    hooks = [layer.attend.register_forward_pre_hook(record) for layer in layers]
    # Without dynamo, whose import takes a second, nothing is compiled.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with eager:
            yield maps
    finally:
        for hook in hooks:
            hook.remove()
