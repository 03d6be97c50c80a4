"""The transformer block, its feed-forward layer and its norms."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from folio.models.attention import NORM_EPS, AttentionMap, CrossAttention, SelfAttention, Source, View
from folio.models.cache import LayerCache
from folio.models.cpu_linear import Linear, activated_linear
from folio.models.transformer_config import TransformerConfig


def gelu_tanh(hidden: Tensor) -> Tensor:
    """GELU by its tanh form (Hendrycks and Gimpel 2016, section 2), as GPT-2 computes it."""
    return F.gelu(hidden, approximate="tanh")


def relu_squared(hidden: Tensor) -> Tensor:
    """max(0, x)^2 (So et al. 2021, Primer, section 4)."""
    return F.relu(hidden).square()


def swiglu(hidden: Tensor) -> Tensor:
    """silu(gate) * value (Shazeer 2020, equation 6): (..., 2F) -> (..., F)."""
    gate, value = hidden.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "relu_squared": relu_squared,
    "swiglu": swiglu,
}


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, applied to each position alone.

    Source: Vaswani et al. 2017, section 3.3. With swiglu, which takes two inputs for each output, the first layer is
    twice as wide.

    Shapes: hidden (B, T, D) -> (B, T, D), through (B, T, F).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.feed_forward_width
        self.activation = ACTIVATIONS[config.activation]
        in_width = 2 * width if config.activation == "swiglu" else width
        self.in_projection = Linear(config.d_model, in_width, bias=config.bias)
        self.out_projection = Linear(width, config.d_model, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return activated_linear(self.in_projection(hidden), self.activation, self.out_projection)


class Block(nn.Module):
    """Attention, then attention to a source where there is one, then feed-forward, each added to the residual stream.

    Source: the norm before a sublayer as in GPT-2 (Radford et al. 2019, section 2.3; Xiong et al. 2020 say why it
    trains well), or after the sum as in the original Transformer (Vaswani et al. 2017, section 3.1). After it, dropout
    acts on what the sublayer reads; the paper drops what it gives, which without dropout is the same.

    Shapes: hidden (B, T, D) -> (B, T, D).
    """

    def __init__(self, config: TransformerConfig, *, cross_attention: bool = False) -> None:
        super().__init__()
        self.norm_position = config.norm_position
        self.attention_norm = build_norm(config)
        self.attention = SelfAttention(config)
        self.cross_attention_norm = build_norm(config) if cross_attention else None
        self.cross_attention = CrossAttention(config) if cross_attention else None
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_checkpointing = False
        """Keep nothing for the backward pass but what the block reads, and compute it once more there."""

    def forward(
        self, hidden: Tensor, view: View, *, cache: LayerCache | None = None, source: Source | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, hidden, view, cache, source, use_reentrant=False)
        return self._forward(hidden, view, cache, source)

    def _forward(self, hidden: Tensor, view: View, cache: LayerCache | None, source: Source | None) -> Tensor:
        hidden = self._add(hidden, self.attention_norm, lambda x: self.attention(x, view, cache))
        if self.cross_attention is not None:
            cross = self.cross_attention
            hidden = self._add(hidden, self.cross_attention_norm, lambda x: cross(x, source, cache))
        return self._add(hidden, self.feed_forward_norm, self.feed_forward)

    def _add(self, hidden: Tensor, norm: nn.Module | None, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        assert norm is not None
        if self.norm_position == "pre":
            return hidden + self.dropout(sublayer(norm(hidden)))
        return norm(hidden + sublayer(self.dropout(hidden)))

    def look(self, hidden: Tensor, view: View, source: Source | None = None) -> AttentionMap:
        """How this block attends: to its own sequence, or to the source where it attends to one."""
        is_pre = self.norm_position == "pre"
        attends_to = self.attention.look(self.attention_norm(hidden) if is_pre else hidden, view)
        if self.cross_attention is None or self.cross_attention_norm is None:
            return attends_to
        assert source is not None
        hidden = self._add(hidden, self.attention_norm, lambda x: self.attention(x, view))
        return self.cross_attention.look(self.cross_attention_norm(hidden) if is_pre else hidden, source)


def build_norm(config: TransformerConfig) -> nn.Module:
    """A layer norm (Ba et al. 2016), or an RMS norm, which keeps the mean (Zhang and Sennrich 2019)."""
    if config.norm == "rms_norm":
        return nn.RMSNorm(config.d_model, eps=NORM_EPS)
    return nn.LayerNorm(config.d_model, eps=NORM_EPS, bias=config.bias)
