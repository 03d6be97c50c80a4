"""Causal multi-head self-attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from folio.models.gpt_config import GPTConfig


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which position t sees only positions <= t.

    Source: Vaswani et al. 2017, section 3.2; fused QKV projection as in GPT-2.

    Shapes: hidden (B, T, D) -> (B, T, D).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv_projection = nn.Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.out_projection = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        qkv = self.qkv_projection(hidden)  # (B, T, 3D)
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for part in qkv.chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)  # (B, H, T, K)
        return self.out_projection(mixed.transpose(1, 2).flatten(start_dim=2))
