"""GPT-2's decoder, from tokens to logits. This file and `blocks.py` are the whole model; the rest is detail."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from folio.models.attention_maps import AttentionMap, record_attention
from folio.models.blocks import EncoderOutput, OutputLayer, SelfAttention, build_block, build_norm
from folio.models.cache import KeyValueCache
from folio.models.cpu_elementwise import Dropout
from folio.models.decoding import continue_tokens
from folio.models.initialization import initialize
from folio.models.masks import AttentionMask, near_mask, positions_after
from folio.models.parameter_count import CountsParameters
from folio.models.positional import Rotation, build_positional_encoding
from folio.models.sampling import SamplingParams
from folio.models.transformer_config import TransformerConfig
from folio.models.value_embeddings import ValueEmbeddings


class Transformer(CountsParameters):
    """Embeddings and a stack of blocks. `GPT` and `Encoder` add the attention mask and the output layer.

    An output layer reads the stack unless `feeds_output` is False, as in the encoder of an encoder-decoder.

    Source: Vaswani et al. 2017.

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> stack = Transformer(config)
        >>> hidden = stack.embed(torch.tensor([[1, 2, 3]]), positions=torch.arange(3))
        >>> stack.run_blocks(hidden, {None: AttentionMask(is_causal=True)}, rotation=None).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig, *, cross_attention: bool = False, feeds_output: bool = True) -> None:
        super().__init__()
        self.config = config
        self.output_scale = config.output_scale if feeds_output else None
        self.token_embedding = nn.Embedding(config.vocab_size, config.token_width)
        self.positional_encoding = build_positional_encoding(config)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            build_block(config, cross_attention=cross_attention) for _ in range(config.n_layers)
        )
        self.final_norm = build_norm(config) if config.has_final_norm else nn.Identity()
        self.value_embeddings = ValueEmbeddings(config) if config.value_embeddings else None

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens (B, T) at positions (T,) or (B, T): -> (B, T, D)."""
        hidden, scale = self.token_embedding(tokens), self.config.embedding_scale
        hidden = hidden if scale is None else hidden * scale
        return self.dropout(self.positional_encoding.embed(hidden, positions))

    def run_blocks(
        self,
        hidden: Tensor,
        masks: Mapping[int | None, AttentionMask],
        rotation: Rotation | None,
        *,
        tokens: Tensor | None = None,
        cache: KeyValueCache | None = None,
        encoder_output: EncoderOutput | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D), with a mask for each of config.layer_windows; value embeddings need the tokens."""
        values = len(self.blocks) * [None] if self.value_embeddings is None else self.value_embeddings(tokens)
        for index, (block, window) in enumerate(zip(self.blocks, self.config.layer_windows, strict=True)):
            layer_cache = cache.layers[index] if cache else None
            hidden = block(
                hidden,
                masks[window],
                rotation,
                cache=layer_cache,
                encoder_output=encoder_output,
                value_embedding=values[index],
            )
        return self.finish(hidden)

    def finish(self, hidden: Tensor) -> Tensor:
        """Return what the output layer reads of the residual stream: (..., D) -> (..., D)."""
        hidden = self.final_norm(hidden)
        return hidden if self.output_scale is None else hidden * self.output_scale

    def check_length(self, n_positions: int) -> None:
        """Raises: ValueError if learned positions end earlier."""
        longest = self.config.max_positions
        if longest is not None and n_positions > longest:
            raise ValueError(
                f"a sequence of {n_positions} tokens is longer than the model's context_length={longest}, and its "
                f"positional encoding ({self.config.positional_encoding}) was trained for no later position; "
                "cut the sequence to its last tokens"
            )


class GPT(Transformer):
    """A causal language model: tokens (B, T) -> logits (B, T, V); logits[:, t] predict tokens[:, t + 1].

    Source: Radford et al. 2019 (GPT-2), section 2.3. Names in GPT-2's and nanoGPT's code:

        context_length = n_positions, block_size    d_model = n_embd    n_layers = n_layer    n_heads = n_head
        d_ff = n_inner    d_head = head_dim, hs    vocab_size = n_vocab    n_kv_heads = num_key_value_heads
        token_embedding = wte    positional_encoding = wpe    blocks = h    final_norm = ln_f    output = lm_head
        attention.qkv_projection = c_attn    attention.out_projection, feed_forward.out_projection = c_proj
        feed_forward.in_projection = c_fc    attention_norm = ln_1    feed_forward_norm = ln_2

    Rows of different lengths are padded at either end, with any id, and padding_mask is True for their tokens and
    False for padding. Each token's logits are then those of its row alone; the logits at padding are meaningless.

    Several documents can share a row. `documents` numbers that of each token, and changes where another one begins:
    each token's logits are then those of its document alone.

    Shapes: tokens (B, T) of int64, padding_mask (B, T) bool or None if no row is padded, documents (B, T) of int64 or
    None if each row is one document -> (B, T, V).
    Raises: ValueError if a sequence is longer than the positional encoding allows, or the mask is not (B, T) bool.

        >>> from folio.models import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4))
        >>> tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
        >>> model(tokens, padding_mask=torch.tensor([[True, True, True], [True, True, False]])).shape
        torch.Size([2, 3, 65])
        >>> model.eval().generate(tokens, max_new_tokens=4, temperature=0.8, top_k=10).shape
        torch.Size([2, 7])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.output = build_output(config, self.token_embedding)
        initialize(self, config)

    def forward(self, tokens: Tensor, padding_mask: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        return self.output(self.hidden(tokens, padding_mask, documents))

    def hidden(
        self,
        tokens: Tensor,
        padding_mask: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return the output layer's input: (B, T) -> (B, T, D).

        Use this instead of `forward` for the logits of a few positions, or for a loss that never holds all (B, T, V)
        logits. With a cache, tokens continue the cached ones and are added to them; padding_mask and documents (B, S)
        then cover the cached ones too.
        """
        return decode(self, tokens, padding_mask, documents, cache=cache)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        *,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Continue each row by max_new_tokens tokens: (B, T) -> (B, T + max_new_tokens).

        The options are those of `SamplingParams`; temperature=0 always takes the likeliest token. Random numbers come
        from the generator, or from torch's own. The model sees the last context_length tokens. It stays in its mode:
        call `eval()` first, or dropout acts. `folio.generation` generates text, with more options.

        With a padding_mask (B, T), as in `forward`, each row is continued as it would be alone: the new tokens follow
        its last token, and padding at its end moves behind them.

        Raises: ValueError naming the argument, its value and the rule.
        """
        sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
        return continue_tokens(self, tokens, padding_mask, max_new_tokens, sampling, generator)

    def attention_mask(self, tokens: Tensor, padding_mask: Tensor | None = None, layer: int = 0) -> Tensor:
        """Return which positions each position attends to, by the causal and the padding mask: (B, 1, T, T) bool.

        With config.attention_window, layers can differ; this is the mask of one of them.

        A position with nothing to attend to, such as padding before a text, attends to the first: see `combine_masks`.
        """
        batch_size, n_tokens = tokens.shape
        positions = positions_after(0, tokens, padding_mask)
        near = near_mask(positions.new, positions.all, self.config.layer_windows[layer])
        mask = AttentionMask.causal(n_tokens, n_tokens, tokens.device, key_mask=positions.key_mask, near=near)
        return mask.allowed(n_tokens, n_tokens, tokens.device).expand(batch_size, -1, -1, -1)

    def attention_maps(self, tokens: Tensor, padding_mask: Tensor | None = None) -> list[AttentionMap]:
        """Return what each layer attends to: (B, T) -> n_layers maps of (B, H, T, T)."""
        with record_attention(self, SelfAttention) as maps:
            self.hidden(tokens, padding_mask)
        return maps


def decode(
    stack: Transformer,
    tokens: Tensor,
    padding_mask: Tensor | None = None,
    documents: Tensor | None = None,
    *,
    cache: KeyValueCache | None = None,
    encoder_output: EncoderOutput | None = None,
) -> Tensor:
    """Run a stack over tokens that attend to themselves and what came before: (B, T) -> (B, T, D)."""
    n_before, n_new = cache.n_keys if cache else 0, tokens.size(1)
    stack.check_length(n_before + n_new)
    positions = positions_after(n_before, tokens, padding_mask, documents)
    encoding = stack.positional_encoding
    masks = {}
    for window in set(stack.config.layer_windows):
        n_keys = n_new + (cache.n_kept(window) if cache else 0)
        seen = positions.last(n_keys)
        masks[window] = AttentionMask.causal(
            n_new,
            n_keys,
            tokens.device,
            key_mask=seen.key_mask,
            documents=seen.documents,
            near=near_mask(seen.new, seen.all, window),
            window=window,
            bias=encoding.bias(seen.new, seen.all),
        )
    hidden, rotation = stack.embed(tokens, positions.new), encoding.rotation(positions.new)
    return stack.run_blocks(hidden, masks, rotation, tokens=tokens, cache=cache, encoder_output=encoder_output)


def build_output(config: TransformerConfig, token_embedding: nn.Embedding) -> OutputLayer:
    """Build the output layer, (..., D) -> logits (..., V), with the embedding's weight if they are tied."""
    output = OutputLayer(config)
    if config.ties_weights:
        output.weight = token_embedding.weight
    return output
