"""GPT-2's decoder, readable from top to bottom: this file, transformer.py, blocks.py, attention.py."""

from torch import Tensor

from folio.models.attention import AttentionMap, View, causal_view
from folio.models.cache import KeyValueCache
from folio.models.initialization import initialize
from folio.models.transformer import Transformer, output_layer, places_after
from folio.models.transformer_config import TransformerConfig


class GPT(Transformer):
    """A causal language model: tokens (B, T) -> logits (B, T, V); logits[:, t] predict tokens[:, t + 1].

    Source: Radford et al. 2019 (GPT-2), section 2.3. Names in GPT-2's and nanoGPT's code:

        context_length = n_positions, block_size    d_model = n_embd    n_layers = n_layer    n_heads = n_head
        token_embedding = wte    positional_encoding = wpe    blocks = h    final_norm = ln_f    output = lm_head
        attention.qkv_projection = c_attn    attention.out_projection, feed_forward.out_projection = c_proj
        feed_forward.in_projection = c_fc    attention_norm = ln_1    feed_forward_norm = ln_2

    Shapes: tokens (B, T) of int64 -> (B, T, V).
    Raises: ValueError where a sequence is longer than context_length and the positional encoding ends there.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.output = output_layer(config, self.token_embedding)
        initialize(self, config)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        return self.output(self.hidden(tokens))

    def hidden(self, tokens: Tensor, *, cache: KeyValueCache | None = None, n_padding: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, T, D): what the output layer reads.

        Apart from `forward` for those who want the logits of few positions, or a loss that never holds all
        (B, T, V) of them. With a cache, tokens continue those that it holds, and are added to it. Where the rows of a
        batch differ in length, row b begins with n_padding[b] tokens that nobody sees.
        """
        hidden, view = self._prepare(tokens, cache, n_padding)
        return self.run_blocks(hidden, view, cache=cache)

    def attention_maps(self, tokens: Tensor) -> list[AttentionMap]:
        """What each layer mixes with: (B, T) -> n_layers of (B, H, T, T)."""
        return self.look_into_blocks(*self._prepare(tokens, None, None))

    def _prepare(self, tokens: Tensor, cache: KeyValueCache | None, n_padding: Tensor | None) -> tuple[Tensor, View]:
        """Embeddings (B, T, D), and who sees whom."""
        n_before, n_new = cache.n_keys if cache else 0, tokens.size(1)
        self.check_length(n_before + n_new)
        positions, key_positions, key_mask = places_after(n_before, n_new, n_padding, tokens.device)
        view = causal_view(
            n_new,
            n_before + n_new,
            tokens.device,
            key_mask=key_mask,
            rotation=self.positional_encoding.rotation(positions),
            bias=self.positional_encoding.bias(positions, key_positions),
        )
        return self.embed(tokens, positions), view
