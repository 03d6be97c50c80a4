"""The transformer block and its feed-forward layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from folio.models.attention import CausalSelfAttention
from folio.models.gpt_config import GPTConfig


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, applied to each position alone.

    Source: Vaswani et al. 2017, section 3.3; the tanh form of GELU (Hendrycks and Gimpel 2016) as in GPT-2.

    Shapes: hidden (B, T, D) -> (B, T, D), through (B, T, F).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.in_projection = nn.Linear(config.d_model, config.feed_forward_width, bias=config.bias)
        self.out_projection = nn.Linear(config.feed_forward_width, config.d_model, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.out_projection(F.gelu(self.in_projection(hidden), approximate="tanh"))


class Block(nn.Module):
    """Attention, then feed-forward, each added to the residual stream that it reads through a norm.

    Source: pre-norm as in GPT-2 (Radford et al. 2019, section 2.3); Xiong et al. 2020 say why it trains well.

    Shapes: hidden (B, T, D) -> (B, T, D).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.attention = CausalSelfAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden)))
        return hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
