"""What a positional encoding is: the places at which a position can enter a model.

There are three of them, each a method of `PositionalEncoding` that does nothing until it is overridden: the embeddings
(`embed`), queries and keys (`rotation`), and the scores of attention (`bias`). `folio.models.positional` has those that
there are; `docs/extend.md` adds one.

Positions are int64 tensors (T,), or (B, T) where the rows of a batch begin at different places; they may be negative.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from folio.models.transformer_config import TransformerConfig


class Rotation(NamedTuple):
    """Cosines and sines of the angles by which pairs of dimensions turn: (T, K/2), or (B, 1, T, K/2)."""

    cos: Tensor
    sin: Tensor


class PositionalEncoding(nn.Module):
    """No position at all, and what every encoding builds on."""

    longest: int | None = None
    """The most positions that it knows; None where its formula has no end."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """Token embeddings (B, T, D) -> (B, T, D) with their positions in them."""
        return hidden

    def rotation(self, positions: Tensor) -> Rotation | None:
        """By what queries and keys at these positions are turned in every layer."""
        return None

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """(H, T, S), or (B, H, T, S): added to the scaled scores of every layer."""
        return None

    def table(self, n_positions: int) -> Tensor | None:
        """What stands for each of the first positions, (n_positions, columns), to be looked at; None for nothing."""
        return None


def angles(positions: Tensor, width: int, base: float) -> Tensor:
    """positions / base^(2i / width) for each pair i of `width` dimensions: (..., T) -> (..., T, width / 2).

    In float64, where the device has it: in float32 the angles of late positions lose their last digits.
    """
    dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(0, width, 2, dtype=dtype, device=positions.device) / width
    return positions.to(dtype)[..., None] / base**exponents


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Turn pairs of dimensions: queries or keys (B, H, T, K) -> (B, H, T, K)."""
    first, second = vectors.chunk(2, dim=-1)  # (B, H, T, K/2)
    cos, sin = rotation
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.type_as(vectors)  # the angles are float32, also where autocast made the vectors smaller
