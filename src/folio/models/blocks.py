"""The transformer block: attention, feed-forward layer, norms, and how they write into the residual stream."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from folio.models.cache import LayerCache
from folio.models.cpu_elementwise import Dropout, RMSNorm
from folio.models.cpu_linear import Linear, activated_linear
from folio.models.masks import AttentionMask
from folio.models.positional import Rotation, rotate
from folio.models.transformer_config import TransformerConfig
from folio.models.window_attention import leaves_out_enough, window_attention


class EncoderOutput(NamedTuple):
    """The states of an encoder, which a decoder reads.

    Example:

        >>> EncoderOutput(torch.zeros(2, 5, 4), mask=None).states.shape
        torch.Size([2, 5, 4])
    """

    states: Tensor
    """(B, S, D)."""
    mask: Tensor | None
    """(B, S) bool, False for padding; None if there is no padding."""


class DotProductAttention(nn.Module):
    """softmax(q k^T scale + mask) v, without ever holding the weights; `attention_maps` computes those.

    The scale is 1 / sqrt(K) if it is None.

    Source: Vaswani et al. 2017, section 3.2.1. If there are fewer heads of keys than of queries, each serves as many
    neighboring ones (Ainslie et al. 2023, GQA, section 2.2).

    Shapes: q (B, H, T, K), k and v (B, H or a divisor of it, S, K) -> (B, H, T, K).

        >>> q, k, v = torch.zeros(3, 1, 2, 5, 4)
        >>> DotProductAttention(dropout=0.0)(q, k, v, AttentionMask(is_causal=True)).shape
        torch.Size([1, 2, 5, 4])
    """

    def __init__(self, dropout: float, scale: float | None = None) -> None:
        super().__init__()
        self.dropout = dropout
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        attn_mask = mask.tensor
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(q.dtype)
        dropout = self.dropout if self.training else 0.0
        if mask.window is not None and not dropout and leaves_out_enough(q, k, mask.window):
            k, v = repeat_heads(k, q.size(1)), repeat_heads(v, q.size(1))
            return window_attention(q, k, v, mask.window, self.scale)
        if q.device.type != "cpu" and (attn_mask is not None or q.dtype == torch.float32):
            # torch's only kernel on a GPU that knows groups takes neither; without it, all scores would be in memory.
            k, v = repeat_heads(k, q.size(1)), repeat_heads(v, q.size(1))
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask,
            dropout_p=dropout,
            is_causal=mask.is_causal,
            scale=self.scale,
            enable_gqa=k.size(1) != q.size(1),
        )


class FusedLinear(Linear):
    """Several linear layers that read the same input, computed as one product; `sizes` are their output widths.

    Example:

        >>> FusedLinear(4, (4, 4, 4), bias=False)(torch.zeros(1, 4)).shape
        torch.Size([1, 12])
    """

    def __init__(self, in_features: int, sizes: tuple[int, ...], *, bias: bool) -> None:
        super().__init__(in_features, sum(sizes), bias=bias)
        self.sizes = sizes


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; the mask says which positions a position attends to.

    Source: Vaswani et al. 2017, section 3.2; fused QKV projection as in GPT-2. qk_norm: Henry et al. 2020, with an
    RMS norm over each head as in Dehghani et al. 2023, section 2.

    Shapes: hidden (B, T, D), value_embedding (B, T, G K) or None -> (B, T, D).

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> SelfAttention(config)(torch.zeros(1, 3, 4), AttentionMask(is_causal=True)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        q_width, kv_width = config.n_heads * config.head_width, config.key_value_heads * config.head_width
        self.widths = (q_width, kv_width, kv_width)
        self.qkv_projection = FusedLinear(config.d_model, self.widths, bias=config.attention_has_bias)
        self.q_norm, self.k_norm = build_head_norm(config), build_head_norm(config)
        self.attend = DotProductAttention(config.attention_dropout_rate, config.attention_scale)
        self.out_projection = Linear(q_width, config.d_model, bias=config.attention_has_bias)

    def forward(
        self,
        hidden: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
        value_embedding: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); with a cache, each position attends to the cached ones as well."""
        parts = self.qkv_projection(hidden).split(self.widths, dim=-1)
        q, k, v = (split_heads(part, self.head_width) for part in parts)  # q (B, H, T, K), k and v (B, G, T, K)
        if value_embedding is not None:
            v = v + split_heads(value_embedding, self.head_width).type_as(v)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, G, S, K)
        return self.out_projection(merge_heads(self.attend(q, k, v, mask)))


class CrossAttention(nn.Module):
    """Multi-head attention of a decoder's positions to all states of an encoder.

    Source: Vaswani et al. 2017, section 3.2.3. No position enters here: the encoder has put it into the states.

    Shapes: hidden (B, T, D), encoder_output.states (B, S, D) -> (B, T, D).

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> CrossAttention(config)(torch.zeros(1, 3, 4), EncoderOutput(torch.zeros(1, 5, 4), mask=None)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        q_width, kv_width = config.n_heads * config.head_width, config.key_value_heads * config.head_width
        self.q_projection = Linear(config.d_model, q_width, bias=config.attention_has_bias)
        self.kv_projection = FusedLinear(config.d_model, (kv_width, kv_width), bias=config.attention_has_bias)
        self.q_norm, self.k_norm = build_head_norm(config), build_head_norm(config)
        self.attend = DotProductAttention(config.attention_dropout_rate, config.attention_scale)
        self.out_projection = Linear(q_width, config.d_model, bias=config.attention_has_bias)

    def forward(self, hidden: Tensor, encoder_output: EncoderOutput, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); with a cache, the encoder's states are projected only once."""
        q = self.q_norm(split_heads(self.q_projection(hidden), self.head_width))  # (B, H, T, K)
        k, v = self._keys_values(encoder_output.states, cache)  # (B, G, S, K)
        mixed = self.attend(q, k, v, AttentionMask.bidirectional(encoder_output.mask))
        return self.out_projection(merge_heads(mixed))

    def _keys_values(self, states: Tensor, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        if cache is not None and cache.encoder_keys_values is not None:
            return cache.encoder_keys_values
        k, v = (split_heads(part, self.head_width) for part in self.kv_projection(states).chunk(2, dim=-1))
        k = self.k_norm(k)
        if cache is not None:
            cache.encoder_keys_values = k, v
        return k, v


def split_heads(hidden: Tensor, head_width: int) -> Tensor:
    """(B, T, H K) -> (B, H, T, K)."""
    return hidden.unflatten(-1, (-1, head_width)).transpose(1, 2)


def merge_heads(mixed: Tensor) -> Tensor:
    """(B, H, T, K) -> (B, T, H K)."""
    return mixed.transpose(1, 2).flatten(start_dim=2)


def repeat_heads(heads: Tensor, n_heads: int) -> Tensor:
    """(B, G, S, K) -> (B, H, S, K): each head of keys or values, H / G times."""
    return heads if heads.size(1) == n_heads else heads.repeat_interleave(n_heads // heads.size(1), dim=1)


def gelu_tanh(hidden: Tensor) -> Tensor:
    """GELU by its tanh approximation (Hendrycks and Gimpel 2016, section 2), as GPT-2 computes it."""
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
    """Two linear layers with an activation between them, applied to each position separately.

    Source: Vaswani et al. 2017, section 3.3. swiglu takes two inputs for each output, so the first layer is then
    twice as wide.

    Shapes: hidden (B, T, D) -> (B, T, D), through (B, T, F).

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> FeedForward(config)(torch.zeros(1, 3, 4)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.feed_forward_width
        self.activation = ACTIVATIONS[config.activation]
        n_inputs = 2 if config.activation == "swiglu" else 1
        self.in_projection = FusedLinear(config.d_model, n_inputs * (width,), bias=config.bias)
        self.dropout = Dropout(config.feed_forward_dropout)
        self.out_projection = Linear(width, config.d_model, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.in_projection(hidden)  # (B, T, F), or (B, T, 2F) for swiglu
        if self.training and self.dropout.p:
            return self.out_projection(self.dropout(self.activation(inner)))
        # out_projection(activation(inner)), with less memory on a CPU
        return activated_linear(inner, self.activation, self.out_projection)


class Block(nn.Module):
    """Attention, then feed-forward, each reading a norm of the residual stream and adding to the stream itself.

    In a decoder that reads an encoder by cross-attention, that attention comes between the two.

    Source: GPT-2 (Radford et al. 2019, section 2.3). Xiong et al. 2020 explain why this trains well.

    Shapes: hidden (B, T, D) -> (B, T, D).

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> Block(config)(torch.zeros(1, 3, 4), AttentionMask(is_causal=True)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig, *, cross_attention: bool = False) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = SelfAttention(config)
        if cross_attention:
            self.cross_attention_norm = build_norm(config)
        self.cross_attention = CrossAttention(config) if cross_attention else None
        self.feed_forward_norm = build_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.dropout)
        self.activation_checkpointing = False
        """Keep only the block's input for the backward pass, and run the block again there."""

    def forward(
        self,
        hidden: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None = None,
        *,
        cache: LayerCache | None = None,
        encoder_output: EncoderOutput | None = None,
        value_embedding: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        inputs = (hidden, mask, rotation, cache, encoder_output, value_embedding)
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(self.run_sublayers, *inputs, use_reentrant=False)
        return self.run_sublayers(*inputs)

    def run_sublayers(
        self,
        hidden: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None,
        cache: LayerCache | None,
        encoder_output: EncoderOutput | None,
        value_embedding: Tensor | None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        attended = self.attention(self.attention_norm(hidden), mask, rotation, cache, value_embedding)
        hidden = hidden + self.dropout(attended)
        if self.cross_attention is not None:
            normed = self.cross_attention_norm(hidden)
            hidden = hidden + self.dropout(self.cross_attention(normed, encoder_output, cache))
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))


class PostNormBlock(Block):
    """A block that normalizes after each sum, as in the original Transformer.

    Source: Vaswani et al. 2017, section 3.1. config.post_norm_dropout says whether dropout acts on a sublayer's input
    or, as in section 5.4, on its output.

        >>> sizes = {"vocab_size": 65, "context_length": 8, "n_layers": 1, "n_heads": 2, "d_model": 4}
        >>> config = TransformerConfig(norm_position="post", **sizes)
        >>> PostNormBlock(config)(torch.zeros(1, 3, 4), AttentionMask(is_causal=True)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig, *, cross_attention: bool = False) -> None:
        super().__init__(config, cross_attention=cross_attention)
        self.drops_input = config.post_norm_dropout == "input"

    def run_sublayers(
        self,
        hidden: Tensor,
        mask: AttentionMask,
        rotation: Rotation | None,
        cache: LayerCache | None,
        encoder_output: EncoderOutput | None,
        value_embedding: Tensor | None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        attended = self.attention(self._drop_input(hidden), mask, rotation, cache, value_embedding)
        hidden = self.attention_norm(hidden + self._drop_output(attended))
        if self.cross_attention is not None:
            attended = self.cross_attention(self._drop_input(hidden), encoder_output, cache)
            hidden = self.cross_attention_norm(hidden + self._drop_output(attended))
        return self.feed_forward_norm(hidden + self._drop_output(self.feed_forward(self._drop_input(hidden))))

    def _drop_input(self, hidden: Tensor) -> Tensor:
        return self.dropout(hidden) if self.drops_input else hidden

    def _drop_output(self, update: Tensor) -> Tensor:
        return update if self.drops_input else self.dropout(update)


def build_block(config: TransformerConfig, *, cross_attention: bool = False) -> Block:
    """Build the block that config.norm_position names."""
    block_class = Block if config.norm_position == "pre" else PostNormBlock
    return block_class(config, cross_attention=cross_attention)


def build_norm(config: TransformerConfig) -> nn.Module:
    """Build a layer norm (Ba et al. 2016), or an RMS norm, which keeps the mean (Zhang and Sennrich 2019)."""
    if config.norm == "rms_norm":
        return RMSNorm(config.d_model, eps=config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)


def build_head_norm(config: TransformerConfig) -> nn.Module:
    """Build the norm of the queries or the keys, with a weight (K,) that all heads share; no norm without qk_norm."""
    return RMSNorm(config.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()


class OutputLayer(Linear):
    """The linear layer from the residual stream to the logits, which config.logit_softcap keeps in a range.

    Shapes: hidden (..., D) -> logits (..., V).

        >>> config = TransformerConfig(
        ...     vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4, logit_softcap=15.0
        ... )
        >>> OutputLayer(config)(torch.full((4,), 1e9)).abs().max().item()
        15.0
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.d_model, config.vocab_size, bias=config.output_bias)
        self.softcap = config.logit_softcap

    def forward(self, hidden: Tensor) -> Tensor:
        return cap_logits(super().forward(hidden), self.softcap)


def cap_logits(logits: Tensor, softcap: float | None) -> Tensor:
    """Return c tanh(logits / c), at least in float32 even under autocast; without a softcap, the logits as they are."""
    if softcap is None:
        return logits
    return softcap * torch.tanh(logits.to(torch.promote_types(logits.dtype, torch.float32)) / softcap)
