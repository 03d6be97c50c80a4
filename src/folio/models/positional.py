"""Positional encodings: how a model knows where a token stands. `folio.models.positional_base` says what one is."""

import torch
from torch import Tensor, nn

from folio.models.positional_base import PositionalEncoding, Rotation, angles
from folio.models.transformer_config import TransformerConfig


class LearnedPositions(PositionalEncoding):
    """One trained vector per position, as in GPT-2; knows no position past context_length.

    Source: Radford et al. 2019; Gehring et al. 2017, section 3.1.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.longest = config.context_length
        self.embedding = nn.Embedding(config.context_length, config.d_model)

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return hidden + self.embedding(positions)

    def table(self, n_positions: int) -> Tensor:
        """The trained vectors, (n_positions, D)."""
        return self.embedding.weight[:n_positions]


class SinusoidalPositions(PositionalEncoding):
    """Fixed sines and cosines of geometrically growing wavelengths: nothing to train, and no last position.

    Source: Vaswani et al. 2017, section 3.5 for the table, 3.4 for the factor sqrt(d_model) on the tokens,
    without which its unit amplitude would drown embeddings that start small.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.d_model, self.base = config.d_model, config.positional_base

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return hidden * self.d_model**0.5 + sinusoids(positions, self.d_model, self.base).to(hidden.dtype)

    def table(self, n_positions: int) -> Tensor:
        """The paper's table, (n_positions, D)."""
        return sinusoids(torch.arange(n_positions), self.d_model, self.base)


class RotaryPositions(PositionalEncoding):
    """Queries and keys turn with their position, so that their product depends on the distance alone.

    Source: Su et al. 2021 (RoFormer), section 3.4.2, equation 34. A pair is made of dimensions i and i + K/2, as in
    GPT-NeoX and LLaMA, where the paper takes neighbours: the same function up to the order of the dimensions.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.d_head, self.base = config.d_head, config.positional_base

    def rotation(self, positions: Tensor) -> Rotation:
        """(T,) -> two of (T, K/2); (B, T) -> two of (B, 1, T, K/2), for all heads."""
        turned = angles(positions, self.d_head, self.base)
        if positions.ndim == 2:
            turned = turned.unsqueeze(1)
        return Rotation(turned.cos().float(), turned.sin().float())

    def table(self, n_positions: int) -> Tensor:
        """The cosines of the angles, (n_positions, K/2)."""
        return self.rotation(torch.arange(n_positions)).cos


class ALiBiPositions(PositionalEncoding):
    """Scores fall linearly with the distance, at a slope of each head's own: nothing to train.

    Source: Press et al. 2022 (ALiBi), section 3. Between positions that see both sides the distance is absolute.
    """

    slopes: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(config.n_heads)), persistent=False)

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """-slope * |query - key|: (H, T, S) from (T,) and (S,); (B, H, T, S) from (B, T) and (B, S)."""
        distances = (query_positions[..., :, None] - key_positions[..., None, :]).abs()  # (T, S) or (B, T, S)
        return -self.slopes[:, None, None] * distances.unsqueeze(-3)

    def table(self, n_positions: int) -> Tensor:
        """What is added to the score of a key at each distance, (n_positions, H)."""
        return -self.slopes * torch.arange(n_positions, device=self.slopes.device)[:, None]


def alibi_slopes(n_heads: int) -> list[float]:
    """The geometric sequence 2^(-8/H), 2^(-16/H) ... 2^-8 (Press et al. 2022, section 3).

    Where H is no power of two, as in the authors' code: the slopes of the next lower power, then every second one of
    the next higher.
    """
    power = 2 ** (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return slopes + between[: n_heads - power]


def sinusoids(positions: Tensor, d_model: int, base: float = 10_000.0) -> Tensor:
    """(..., T) -> (..., T, D): [2i] = sin(p / base^(2i / D)) and [2i + 1] = cos of the same angle.

    Source: Vaswani et al. 2017, section 3.5.
    """
    turned = angles(positions, d_model, base)
    return torch.stack((turned.sin(), turned.cos()), dim=-1).flatten(start_dim=-2).float()


POSITIONAL_ENCODINGS: dict[str, type[PositionalEncoding]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "rotary": RotaryPositions,
    "alibi": ALiBiPositions,
    "none": PositionalEncoding,
}
"""positional_encoding.name -> its class. A new one is entered here."""


def build_positional_encoding(config: TransformerConfig) -> PositionalEncoding:
    """The module that config.positional_encoding names. Raises: ValueError naming the known ones."""
    if config.positional_encoding not in POSITIONAL_ENCODINGS:
        known = ", ".join(POSITIONAL_ENCODINGS)
        raise ValueError(f"positional_encoding={config.positional_encoding} is not one of {known}")
    return POSITIONAL_ENCODINGS[config.positional_encoding](config)
