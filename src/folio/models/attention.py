"""Multi-head attention: one core for the decoder, the encoder and what lies between them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from folio.models.cache import LayerCache
from folio.models.cpu_linear import Linear
from folio.models.masks import causal_mask, combine_masks
from folio.models.positional_base import Rotation, rotate
from folio.models.transformer_config import TransformerConfig

NORM_EPS = 1e-5
"""GPT-2's, for every norm."""


@dataclass(frozen=True)
class View:
    """Who sees whom and where they stand: what all layers of one pass share."""

    is_causal: bool = False
    """Each position sees itself and those before it; the fastest way to say so. With it, mask is None."""
    mask: Tensor | None = None
    """Broadcastable to (B, H, T, S): bool, True is seen; or float, added to the scaled scores."""
    rotation: Rotation | None = None
    """Of the queries, and of the keys of the same tokens."""


class Source(NamedTuple):
    """What an encoder has made of its tokens."""

    states: Tensor
    """(B, S, D)."""
    mask: Tensor | None
    """(B, S) bool, False for padding; None where there is none."""


class AttentionMap(NamedTuple):
    """One layer's attention, to be looked at; computed apart, since the fast path never holds it."""

    scores: Tensor
    """(B, H, T, S): the products of queries and keys, neither scaled nor masked."""
    weights: Tensor
    """(B, H, T, S): rows sum to 1; 0 exactly where a key is not seen."""


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; the view says which positions a position sees.

    Source: Vaswani et al. 2017, section 3.2; fused QKV projection as in GPT-2. qk_norm: Henry et al. 2020, with an
    RMS norm over each head as in Dehghani et al. 2023, section 2.

    Shapes: hidden (B, T, D) -> (B, T, D).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout_rate
        self.qkv_projection = Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.q_norm = nn.RMSNorm(config.d_head, eps=NORM_EPS) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.d_head, eps=NORM_EPS) if config.qk_norm else nn.Identity()
        self.out_projection = Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, hidden: Tensor, view: View, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); with a cache, over its positions as well."""
        q, k, v = self._project(hidden, view.rotation)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, H, S, K)
        mixed = attend(q, k, v, view, self.dropout if self.training else 0.0)
        return self.out_projection(merge_heads(mixed))

    def look(self, hidden: Tensor, view: View) -> AttentionMap:
        """What `forward` mixes with."""
        q, k, _ = self._project(hidden, view.rotation)
        return attention_map(q, k, view)

    def _project(self, hidden: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> q, k, v, each (B, H, T, K)."""
        q, k, v = (split_heads(part, self.n_heads) for part in self.qkv_projection(hidden).chunk(3, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v


class CrossAttention(nn.Module):
    """Multi-head attention of a decoder's positions to all states of an encoder.

    Source: Vaswani et al. 2017, section 3.2.3. No position enters here: the states know where they stand.

    Shapes: hidden (B, T, D), source.states (B, S, D) -> (B, T, D).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout_rate
        self.q_projection = Linear(config.d_model, config.d_model, bias=config.bias)
        self.kv_projection = Linear(config.d_model, 2 * config.d_model, bias=config.bias)
        self.q_norm = nn.RMSNorm(config.d_head, eps=NORM_EPS) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.d_head, eps=NORM_EPS) if config.qk_norm else nn.Identity()
        self.out_projection = Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, hidden: Tensor, source: Source, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); with a cache, the source is projected once."""
        k, v = self._project_source(source) if cache is None or cache.source is None else cache.source
        if cache is not None:
            cache.source = k, v
        mixed = attend(self._queries(hidden), k, v, view_of(source), self.dropout if self.training else 0.0)
        return self.out_projection(merge_heads(mixed))

    def look(self, hidden: Tensor, source: Source) -> AttentionMap:
        """What `forward` mixes with."""
        k, _ = self._project_source(source)
        return attention_map(self._queries(hidden), k, view_of(source))

    def _queries(self, hidden: Tensor) -> Tensor:
        return self.q_norm(split_heads(self.q_projection(hidden), self.n_heads))  # (B, H, T, K)

    def _project_source(self, source: Source) -> tuple[Tensor, Tensor]:
        k, v = (split_heads(part, self.n_heads) for part in self.kv_projection(source.states).chunk(2, dim=-1))
        return self.k_norm(k), v  # (B, H, S, K)


def attend(q: Tensor, k: Tensor, v: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(K) + mask) v without ever holding the weights: (B, H, T, K), 2 x (B, H, S, K) -> as q."""
    mask = view.mask
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=view.is_causal)


def attention_map(q: Tensor, k: Tensor, view: View) -> AttentionMap:
    """The same, step by step and with everything to look at: q (B, H, T, K), k (B, H, S, K).

    Products of K terms of unit variance have variance K. Their softmax would be all but a choice of the largest, with
    no gradient for the rest, hence the division by sqrt(K) (Vaswani et al. 2017, section 3.2.1).
    """
    products = q @ k.transpose(-2, -1)  # (B, H, T, S)
    scaled = products / q.size(-1) ** 0.5
    mask = causal_mask(q.size(2), k.size(2), device=q.device) if view.is_causal else view.mask
    if mask is not None:
        scaled = scaled + mask if mask.is_floating_point() else scaled.masked_fill(~mask, float("-inf"))
    return AttentionMap(products, scaled.softmax(dim=-1))


def causal_view(
    n_queries: int,
    n_keys: int,
    device: torch.device,
    *,
    n_prefix: int = 0,
    key_mask: Tensor | None = None,
    rotation: Rotation | None = None,
    bias: Tensor | None = None,
) -> View:
    """Of a decoder whose T queries are the last of S keys: each sees those before it, and the first n_open.

    key_mask (B, S) is False for padding; rotation and bias are the positional encoding's.
    """
    if key_mask is None and bias is None:
        if n_queries == 1:  # the newest sees everything
            return View(rotation=rotation)
        if n_queries == n_keys and not n_prefix:
            return View(is_causal=True, rotation=rotation)
    causal = causal_mask(n_queries, n_keys, n_prefix, device)
    return View(mask=with_bias(combine_masks(causal, _for_heads(key_mask)), bias), rotation=rotation)


def two_sided_view(key_mask: Tensor | None, *, rotation: Rotation | None = None, bias: Tensor | None = None) -> View:
    """Of an encoder: every position sees all that is not padding, key_mask (B, S)."""
    return View(mask=with_bias(combine_masks(_for_heads(key_mask)), bias), rotation=rotation)


def view_of(source: Source) -> View:
    """Of queries that see the whole of a source."""
    return two_sided_view(source.mask)


def with_bias(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """A bool mask and a bias of scores as one tensor; both broadcastable to (B, H, T, S)."""
    if bias is None or mask is None:
        return mask if bias is None else _four_dimensional(bias)
    return _four_dimensional(bias).masked_fill(~mask, float("-inf"))


def _four_dimensional(bias: Tensor) -> Tensor:
    return bias if bias.ndim == 4 else bias.unsqueeze(0)


def _for_heads(key_mask: Tensor | None) -> Tensor | None:
    """(B, S) -> (B, 1, 1, S): the same for all heads and queries."""
    return None if key_mask is None else key_mask[:, None, None, :]


def split_heads(hidden: Tensor, n_heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, K)."""
    return hidden.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(mixed: Tensor) -> Tensor:
    """(B, H, T, K) -> (B, T, D)."""
    return mixed.transpose(1, 2).flatten(start_dim=2)
