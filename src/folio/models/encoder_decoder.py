"""An encoder that reads a prefix, and a decoder that continues it."""

import torch
from torch import Tensor

from folio.models.attention_maps import AttentionMap, record_attention
from folio.models.blocks import CrossAttention, EncoderOutput, SelfAttention
from folio.models.cache import KeyValueCache
from folio.models.encoder import encode
from folio.models.gpt import Transformer, build_output, decode
from folio.models.initialization import initialize
from folio.models.masks import AttentionMask, positions_after
from folio.models.parameter_count import CountsParameters
from folio.models.transformer_config import TransformerConfig


class EncoderDecoder(CountsParameters):
    """tokens (B, T) that continue a prefix (B, S) -> logits (B, T, V); logits[:, t] predict tokens[:, t + 1].

    The decoder's first token is the last token of the prefix, so that no special token is needed to begin with.
    config.conditioning says how the decoder reads the encoder's states of the prefix:

        cross_attention   each block has a second attention, to the states (Vaswani et al. 2017, section 3.2.3)
        hidden_cache      the states precede the decoder's own embeddings, and every position of the decoder attends
                          to them: a prefix LM (Raffel et al. 2020, section 3.2.1) whose prefix an encoder has read

    Encoder and decoder share the token embedding. The decoder's positions count from 0, and to its attention the
    states stand before them, at -lengths[b] .. -1. The encoder's positions end at context_length - 1 for any length.

    Shapes: tokens (B, T), prefix (B, S) padded at the end, lengths (B,) or None if no prefix is padded.
    Raises: ValueError if a sequence is longer than the positional encoding allows, or a length is below 1 or above S.

        >>> from folio.models import EncoderDecoder, TransformerConfig
        >>> sizes = {"vocab_size": 65, "context_length": 8, "n_layers": 1, "n_heads": 2, "d_model": 4}
        >>> config = TransformerConfig(family="encoder_decoder", conditioning="cross_attention", **sizes)
        >>> EncoderDecoder(config)(tokens=torch.tensor([[3, 4]]), prefix=torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 2, 65])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Transformer(config, feeds_output=False)
        self.decoder = Transformer(config, cross_attention=config.conditioning == "cross_attention")
        self.encoder.token_embedding = self.decoder.token_embedding
        self.output = build_output(config, self.decoder.token_embedding)
        initialize(self, config)

    def forward(self, tokens: Tensor, prefix: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T) and (B, S) -> logits (B, T, V)."""
        return self.output(self.hidden(tokens, prefix, lengths))

    def hidden(self, tokens: Tensor, prefix: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the output layer's input: (B, T) and (B, S) -> (B, T, D)."""
        return self.decode(tokens, self.encode(prefix, lengths))

    def encode(self, prefix: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """(B, S) -> states (B, S, D) and their mask, which `decode` can read any number of times."""
        # Every prefix ends at the same position, however long it is. What matters is how far a token stands before
        # the continuation, and learned positions could not tell that if they counted from the start of the prefix.
        n_tokens, last = prefix.size(1), self.config.context_length - 1
        positions = torch.arange(n_tokens, device=prefix.device) + last + 1
        positions = positions - (n_tokens if lengths is None else lengths[:, None])
        return encode(self.encoder, prefix, lengths, positions.clamp(max=last))

    def decode(
        self,
        tokens: Tensor,
        encoder_output: EncoderOutput,
        *,
        cache: KeyValueCache | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, T) -> (B, T, D), continuing what the cache holds; padding_mask as in `GPT.hidden`."""
        if self.config.conditioning == "cross_attention":
            return decode(self.decoder, tokens, padding_mask, cache=cache, encoder_output=encoder_output)
        return self._decode_after_states(tokens, encoder_output, cache, padding_mask)

    def attention_maps(self, tokens: Tensor, prefix: Tensor) -> list[AttentionMap]:
        """Return what each layer of the decoder attends to, n_layers maps.

        With cross_attention they are (B, H, T, S), over the prefix; with hidden_cache (B, H, T, S + T), over prefix
        and text.
        """
        layer_type = CrossAttention if self.config.conditioning == "cross_attention" else SelfAttention
        with record_attention(self.decoder, layer_type) as maps:
            self.hidden(tokens, prefix)
        n_tokens = tokens.size(1)
        return [AttentionMap(*(part[:, :, -n_tokens:] for part in layer)) for layer in maps]

    def _decode_after_states(
        self,
        tokens: Tensor,
        encoder_output: EncoderOutput,
        cache: KeyValueCache | None,
        padding_mask: Tensor | None,
    ) -> Tensor:
        n_new, n_states = tokens.size(1), encoder_output.states.size(1)
        is_first = cache is None or cache.n_keys == 0
        n_before = 0 if cache is None or is_first else cache.n_keys - n_states
        self.decoder.check_length(n_before + n_new)
        new, all_positions, key_mask, _ = positions_after(n_before, tokens, padding_mask)
        hidden = self.decoder.embed(tokens, new)
        all_positions, key_mask = _prepend_states(encoder_output, all_positions, key_mask)
        if is_first:  # afterwards the cache holds the states
            hidden, new = torch.cat((encoder_output.states, hidden), dim=1), all_positions
        encoding = self.decoder.positional_encoding
        mask = AttentionMask.causal(
            hidden.size(1),
            n_states + n_before + n_new,
            tokens.device,
            n_prefix=n_states,
            key_mask=key_mask,
            bias=encoding.bias(new, all_positions),
        )
        return self.decoder.run_blocks(hidden, {None: mask}, encoding.rotation(new), cache=cache)[:, -n_new:]


def _prepend_states(
    encoder_output: EncoderOutput, key_positions: Tensor, key_mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return positions (S + T,) or (B, S + T) and mask (B, S + T) of the states followed by the decoder's tokens."""
    batch_size, n_states = encoder_output.states.shape[:2]
    state_positions = torch.arange(n_states, device=key_positions.device)
    if encoder_output.mask is None:
        state_positions = state_positions - n_states
    else:
        state_positions = state_positions - encoder_output.mask.sum(dim=1, keepdim=True)  # (B, S)
    if state_positions.ndim != key_positions.ndim:
        state_positions = state_positions.expand(batch_size, -1)
        key_positions = key_positions.expand(batch_size, -1)
    positions = torch.cat((state_positions, key_positions), dim=-1)
    if encoder_output.mask is None and key_mask is None:
        return positions, None
    state_mask = _mask_or_ones(encoder_output.mask, state_positions, batch_size)
    return positions, torch.cat((state_mask, _mask_or_ones(key_mask, key_positions, batch_size)), dim=-1)


def _mask_or_ones(mask: Tensor | None, positions: Tensor, batch_size: int) -> Tensor:
    if mask is not None:
        return mask
    return torch.ones(batch_size, positions.size(-1), dtype=torch.bool, device=positions.device)
