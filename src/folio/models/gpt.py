"""GPT-2's decoder, readable from top to bottom: this file, then blocks.py, then attention.py."""

from torch import Tensor, nn

from folio.models.blocks import Block
from folio.models.gpt_config import GPTConfig
from folio.models.positional import build_positional_encoding

EMBEDDING_STD = 0.02
"""Standard deviation of GPT-2's initial weights (Radford et al. 2018, section 4.1)."""


class GPT(nn.Module):
    """A causal language model: tokens (B, T) -> logits (B, T, V); logits[:, t] predict tokens[:, t + 1].

    Source: Radford et al. 2019 (GPT-2), section 2.3. Names in GPT-2's and nanoGPT's code:

        context_length = n_positions, block_size    d_model = n_embd    n_layers = n_layer    n_heads = n_head
        token_embedding = wte    positional_encoding = wpe    blocks = h    final_norm = ln_f    output = lm_head
        attention.qkv_projection = c_attn    attention.out_projection, feed_forward.out_projection = c_proj
        feed_forward.in_projection = c_fc    attention_norm = ln_1    feed_forward_norm = ln_2

    Shapes: tokens (B, T) of int64 with T <= context_length -> (B, T, V).
    Raises: ValueError where a sequence is longer than context_length.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positional_encoding = build_positional_encoding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.output = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_weights:
            self.output.weight = self.token_embedding.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw linear layers and embeddings: N(0, 0.02), biases 0, residual projections smaller by sqrt(2 n_layers).

        Each block adds two branches to the residual stream, so its variance would grow with their number
        (Radford et al. 2019, section 2.3).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=EMBEDDING_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith("out_projection.weight"):
                nn.init.normal_(parameter, std=EMBEDDING_STD / (2 * self.config.n_layers) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        return self.output(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D): what the output layer reads.

        Apart from `forward` for those who want the logits of few positions, or a loss that never holds all
        (B, T, V) of them.
        """
        if tokens.size(1) > self.config.context_length:
            raise ValueError(
                f"a sequence of {tokens.size(1)} tokens is longer than the model's "
                f"context_length={self.config.context_length}; cut it to its last tokens"
            )
        hidden = self.dropout(self.positional_encoding(self.token_embedding(tokens)))  # (B, T, D)
        for block in self.blocks:
            hidden = block(hidden)
        return self.final_norm(hidden)

    def count_parameters(self, *, trainable_only: bool = False, embeddings: bool = True) -> int:
        """Number of parameters; tied weights count once. Without embeddings: those of tokens and positions."""
        left_out = set() if embeddings else self._embedding_parameters()
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if parameter not in left_out and (parameter.requires_grad or not trainable_only)
        )

    def _embedding_parameters(self) -> set[nn.Parameter]:
        return {
            *self.token_embedding.parameters(),
            *self.positional_encoding.parameters(),
            *self.output.parameters(),
        }
