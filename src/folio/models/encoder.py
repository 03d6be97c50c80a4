"""A bidirectional encoder, as in BERT."""

import torch
from torch import Tensor

from folio.models.attention import AttentionMap, View, two_sided_view
from folio.models.initialization import initialize
from folio.models.masks import padding_mask
from folio.models.transformer import Transformer, output_layer
from folio.models.transformer_config import TransformerConfig


def prepare_two_sided(
    stack: Transformer, tokens: Tensor, lengths: Tensor | None, positions: Tensor | None = None
) -> tuple[Tensor, View, Tensor | None]:
    """Embeddings (B, S, D), the view in which all tokens see each other, and the mask (B, S) of those.

    Positions (S,) or (B, S) count from 0 where none are given.
    """
    stack.check_length(tokens.size(1))
    if positions is None:
        positions = torch.arange(tokens.size(1), device=tokens.device)
    mask = None if lengths is None else padding_mask(lengths, tokens.size(1))
    encoding = stack.positional_encoding
    view = two_sided_view(mask, rotation=encoding.rotation(positions), bias=encoding.bias(positions, positions))
    return stack.embed(tokens, positions), view, mask


class Encoder(Transformer):
    """A masked language model: tokens (B, T) -> logits (B, T, V); logits[:, t] say what stands at t itself.

    Source: Devlin et al. 2019 (BERT), section 3, in GPT-2's dress: norms first, and no layer of its own before the
    output, no segment embeddings, no next-sentence objective (Liu et al. 2019 do without it as well).

    Shapes: tokens (B, T) of int64, lengths (B,) or None where no row is padded -> (B, T, V). Outputs at padding mean
    nothing.
    Raises: ValueError where a sequence is longer than context_length and the positional encoding ends there, or a
    length is below 1 or above T.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.output = output_layer(config, self.token_embedding)
        initialize(self, config)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        return self.output(self.hidden(tokens, lengths))

    def hidden(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, T, D): what the output layer reads."""
        hidden, view, _ = prepare_two_sided(self, tokens, lengths)
        return self.run_blocks(hidden, view)

    def attention_maps(self, tokens: Tensor) -> list[AttentionMap]:
        """What each layer mixes with: (B, T) -> n_layers of (B, H, T, T)."""
        hidden, view, _ = prepare_two_sided(self, tokens, None)
        return self.look_into_blocks(hidden, view)
