"""A bidirectional encoder, as in BERT."""

import torch
from torch import Tensor

from folio.models.attention_maps import AttentionMap, record_attention
from folio.models.blocks import EncoderOutput, SelfAttention
from folio.models.gpt import Transformer, build_output
from folio.models.initialization import initialize
from folio.models.masks import AttentionMask, near_mask, padding_mask
from folio.models.transformer_config import TransformerConfig


class Encoder(Transformer):
    """A masked language model: tokens (B, T) -> logits (B, T, V); logits[:, t] predict the token at t itself.

    Source: Devlin et al. 2019 (BERT), section 3, with GPT-2's blocks: the norm comes first, no extra layer precedes
    the output, and there are no segment embeddings and no next-sentence objective (Liu et al. 2019 drop it as well).

    Shapes: tokens (B, T) of int64, lengths (B,) or None if no row is padded -> (B, T, V). Outputs at padding are
    meaningless.
    Raises: ValueError if a sequence is longer than the positional encoding allows, or a length is below 1 or above T.

        >>> from folio.models import Encoder, TransformerConfig
        >>> sizes = {"vocab_size": 65, "context_length": 8, "n_layers": 1, "n_heads": 2, "d_model": 4}
        >>> model = Encoder(TransformerConfig(family="encoder", **sizes))
        >>> model(torch.tensor([[1, 2, 3], [4, 5, 0]]), lengths=torch.tensor([3, 2])).shape
        torch.Size([2, 3, 65])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.output = build_output(config, self.token_embedding)
        initialize(self, config)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        return self.output(self.hidden(tokens, lengths))

    def hidden(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the output layer's input: (B, T) -> (B, T, D)."""
        return encode(self, tokens, lengths).states

    def attention_maps(self, tokens: Tensor) -> list[AttentionMap]:
        """Return what each layer attends to: (B, T) -> n_layers maps of (B, H, T, T)."""
        with record_attention(self, SelfAttention) as maps:
            self.hidden(tokens)
        return maps


def encode(
    stack: Transformer, tokens: Tensor, lengths: Tensor | None, positions: Tensor | None = None
) -> EncoderOutput:
    """Run a stack over tokens (B, S) that all attend to each other, except to padding.

    Positions (S,) or (B, S) count from 0 if they are not given.
    """
    stack.check_length(tokens.size(1))
    if positions is None:
        positions = torch.arange(tokens.size(1), device=tokens.device)
    key_mask = None if lengths is None else padding_mask(lengths, tokens.size(1))
    encoding = stack.positional_encoding
    bias = encoding.bias(positions, positions)
    masks = {
        window: AttentionMask.bidirectional(key_mask, bias, near_mask(positions, positions, window))
        for window in set(stack.config.layer_windows)
    }
    hidden = stack.embed(tokens, positions)
    states = stack.run_blocks(hidden, masks, encoding.rotation(positions), tokens=tokens)
    return EncoderOutput(states, key_mask)
