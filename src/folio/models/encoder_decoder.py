"""An encoder that reads a prefix, and a decoder that continues it."""

import torch
from torch import Tensor

from folio.models.attention import AttentionMap, Source, View, causal_view
from folio.models.cache import KeyValueCache
from folio.models.encoder import prepare_two_sided
from folio.models.initialization import initialize
from folio.models.transformer import CountsParameters, Transformer, output_layer, places_after
from folio.models.transformer_config import TransformerConfig


class EncoderDecoder(CountsParameters):
    """tokens (B, T) that continue a prefix (B, S) -> logits (B, T, V); logits[:, t] predict tokens[:, t + 1].

    The decoder's first token is the last of the prefix, so that nothing but text is needed to begin with.
    config.conditioning says how the decoder reads what the encoder has made of the prefix:

        cross_attention   in each block, a second attention to the states (Vaswani et al. 2017, section 3.2.3)
        hidden_cache      the states stand in front of the decoder's own embeddings, seen by every position of the
                          decoder: its self-attention finds them where it finds the text before (a prefix LM, Raffel et
                          al. 2020, section 3.2.1, whose prefix has been through an encoder)

    Encoder and decoder share the token embedding. Positions of the decoder count from 0, and its attention finds the
    states before it, at -lengths[b] .. -1; those of the encoder end at context_length - 1, whatever the length.

    Shapes: tokens (B, T), prefix (B, S) padded at the end, lengths (B,) or None where no prefix is padded.
    Raises: ValueError where a sequence is longer than context_length and the positional encoding ends there, or a
    length is below 1 or above S.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Transformer(config)
        self.decoder = Transformer(config, cross_attention=config.conditioning == "cross_attention")
        self.encoder.token_embedding = self.decoder.token_embedding
        self.output = output_layer(config, self.decoder.token_embedding)
        initialize(self, config)

    def forward(self, tokens: Tensor, prefix: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T) and (B, S) -> logits (B, T, V)."""
        return self.output(self.hidden(tokens, prefix, lengths))

    def hidden(self, tokens: Tensor, prefix: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T) and (B, S) -> (B, T, D): what the output layer reads."""
        return self.decode(tokens, self.encode(prefix, lengths))

    def encode(self, prefix: Tensor, lengths: Tensor | None = None) -> Source:
        """(B, S) -> states (B, S, D) and their mask, which `decode` reads as often as it likes."""
        # Every prefix ends at the same position, however long it is: what matters is how far before the continuation
        # a token stands, and learned positions could not tell if they counted from where the prefix happens to begin.
        n_tokens, last = prefix.size(1), self.config.context_length - 1
        positions = torch.arange(n_tokens, device=prefix.device) + last + 1
        positions = positions - (n_tokens if lengths is None else lengths[:, None])
        hidden, view, mask = prepare_two_sided(self.encoder, prefix, lengths, positions.clamp(max=last))
        return Source(self.encoder.run_blocks(hidden, view), mask)

    def decode(
        self,
        tokens: Tensor,
        source: Source,
        *,
        cache: KeyValueCache | None = None,
        n_padding: Tensor | None = None,
    ) -> Tensor:
        """(B, T) -> (B, T, D), continuing what the cache holds; n_padding (B,) as in `GPT.hidden`."""
        hidden, view = self._prepare(tokens, source, cache, n_padding)
        return self.decoder.run_blocks(hidden, view, cache=cache, source=self._crossed(source))[:, -tokens.size(1) :]

    def attention_maps(self, tokens: Tensor, prefix: Tensor) -> list[AttentionMap]:
        """How each layer of the decoder attends to the prefix: n_layers of (B, H, T, S) with cross_attention, and of
        (B, H, T, S + T), prefix and text, with hidden_cache."""
        source = self.encode(prefix)
        hidden, view = self._prepare(tokens, source, None, None)
        maps = self.decoder.look_into_blocks(hidden, view, self._crossed(source))
        return [
            AttentionMap(scores[:, :, -tokens.size(1) :], weights[:, :, -tokens.size(1) :]) for scores, weights in maps
        ]

    def _crossed(self, source: Source) -> Source | None:
        return source if self.config.conditioning == "cross_attention" else None

    def _prepare(
        self, tokens: Tensor, source: Source, cache: KeyValueCache | None, n_padding: Tensor | None
    ) -> tuple[Tensor, View]:
        """What the decoder's blocks read, (B, T, D) or (B, S + T, D), and who sees whom."""
        device, n_new = tokens.device, tokens.size(1)
        n_states = 0 if self.config.conditioning == "cross_attention" else source.states.size(1)
        is_continued = cache is not None and cache.n_keys > 0
        n_before = cache.n_keys - n_states if cache is not None and is_continued else 0
        n_tokens = n_before + n_new
        self.decoder.check_length(n_tokens)
        positions, key_positions, key_mask = places_after(n_before, n_new, n_padding, device)
        hidden = self.decoder.embed(tokens, positions)
        if n_states:
            key_positions, key_mask = self._behind_states(source, key_positions, key_mask, tokens.size(0))
            if not is_continued:
                hidden, positions = torch.cat((source.states, hidden), dim=1), key_positions
        encoding = self.decoder.positional_encoding
        view = causal_view(
            hidden.size(1),
            n_states + n_tokens,
            device,
            n_prefix=n_states,
            key_mask=key_mask,
            rotation=encoding.rotation(positions),
            bias=encoding.bias(positions, key_positions),
        )
        return hidden, view

    def _behind_states(
        self, source: Source, key_positions: Tensor, key_mask: Tensor | None, batch_size: int
    ) -> tuple[Tensor, Tensor | None]:
        """Positions (S + T,) or (B, S + T) and mask (B, S + T) of the states followed by the decoder's tokens."""
        device, n_states = key_positions.device, source.states.size(1)
        state_positions = torch.arange(n_states, device=device)
        if source.mask is None:
            state_positions = state_positions - n_states
        else:
            state_positions = state_positions - source.mask.sum(dim=1, keepdim=True)  # (B, S)
        if state_positions.ndim != key_positions.ndim:
            state_positions = state_positions.expand(batch_size, -1)
            key_positions = key_positions.expand(batch_size, -1)
        if source.mask is None and key_mask is None:
            return torch.cat((state_positions, key_positions), dim=-1), None
        n_tokens = key_positions.size(-1)
        state_mask = source.mask if source.mask is not None else _all_true(batch_size, n_states, device)
        key_mask = key_mask if key_mask is not None else _all_true(batch_size, n_tokens, device)
        return torch.cat((state_positions, key_positions), dim=-1), torch.cat((state_mask, key_mask), dim=-1)


def _all_true(n_rows: int, n_columns: int, device: torch.device) -> Tensor:
    return torch.ones(n_rows, n_columns, dtype=torch.bool, device=device)
