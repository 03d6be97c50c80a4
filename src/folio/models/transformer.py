"""What the families are made of: embeddings, positions, blocks, a norm."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from folio.models.attention import AttentionMap, Source, View
from folio.models.blocks import Block, build_norm
from folio.models.cache import KeyValueCache
from folio.models.cpu_linear import Linear
from folio.models.positional import build_positional_encoding
from folio.models.transformer_config import TransformerConfig

NOT_IN_BLOCKS = ("token_embedding", "positional_encoding", "output")
"""The parts whose parameters a count "without embeddings" leaves out."""


class CountsParameters(nn.Module):
    """Properties that say how large a model is. Tied weights count once."""

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def n_trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def n_parameters_without_embeddings(self) -> int:
        """Without those of tokens, positions and the output layer."""
        return sum(
            parameter.numel()
            for name, parameter in self.named_parameters()
            if not set(NOT_IN_BLOCKS).intersection(name.split("."))
        )


class Transformer(CountsParameters):
    """A stack of blocks over embedded tokens; `GPT` and `Encoder` add who sees whom, and an output layer.

    Source: Vaswani et al. 2017. With norm_position=pre a last norm follows the blocks, since nothing else would
    scale what they have added up.
    """

    def __init__(self, config: TransformerConfig, *, cross_attention: bool = False) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positional_encoding = build_positional_encoding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, cross_attention=cross_attention) for _ in range(config.n_layers))
        self.final_norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, T) at positions (T,) or (B, T) -> (B, T, D)."""
        return self.dropout(self.positional_encoding.embed(self.token_embedding(tokens), positions))

    def run_blocks(
        self, hidden: Tensor, view: View, *, cache: KeyValueCache | None = None, source: Source | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D), normed."""
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, view, cache=cache.layers[index] if cache else None, source=source)
        return self.final_norm(hidden)

    def look_into_blocks(self, hidden: Tensor, view: View, source: Source | None = None) -> list[AttentionMap]:
        """How each layer attends: to the source where there is one, else to the sequence itself."""
        maps = []
        for block in self.blocks:
            assert isinstance(block, Block)
            maps.append(block.look(hidden, view, source))
            hidden = block(hidden, view, source=source)
        return maps

    def check_length(self, n_positions: int) -> None:
        """Raises: ValueError where learned positions end before."""
        longest = self.positional_encoding.longest
        if longest is not None and n_positions > longest:
            raise ValueError(
                f"a sequence of {n_positions} tokens is longer than the model's context_length={longest}, and its "
                f"positional encoding ({self.config.positional_encoding}) was trained for no later position; "
                "cut the sequence to its last tokens"
            )


def output_layer(config: TransformerConfig, token_embedding: nn.Embedding) -> Linear:
    """(..., D) -> logits (..., V), without a bias; its weight is the embedding's where they are tied."""
    output = Linear(config.d_model, config.vocab_size, bias=False)
    if config.tie_weights:
        output.weight = token_embedding.weight
    return output


class Places(NamedTuple):
    """Where new tokens stand, and what they may attend to: themselves and the tokens before them."""

    positions: Tensor
    """Of the new tokens, (T,); (B, T) where rows begin with padding."""
    key_positions: Tensor
    """Of all tokens, (S,) or (B, S)."""
    key_mask: Tensor | None
    """(B, S) bool, False for padding; None where there is none."""


def places_after(n_before: int, n_new: int, n_padding: Tensor | None, device: torch.device) -> Places:
    """Of n_new tokens that follow n_before others, where row b begins with n_padding[b] tokens of padding."""
    columns = torch.arange(n_before + n_new, device=device)
    if n_padding is None:
        return Places(columns[n_before:], columns, None)
    positions = (columns - n_padding[:, None]).clamp(min=0)
    return Places(positions[:, n_before:], positions, columns >= n_padding[:, None])
