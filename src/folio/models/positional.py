"""Positional encodings: how a model knows where a token stands.

Position can enter a model at three places, each a method of `PositionalEncoding` that does nothing until it is
overridden: the embeddings (`embed`), the queries and keys (`rotation`), and the attention scores (`bias`).
`docs/extend.md` adds an encoding.

Positions are int64 tensors (T,), or (B, T) if the rows of a batch start at different positions. They may be negative.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from folio.models.transformer_config import TransformerConfig


class Rotation(NamedTuple):
    """Cosines and sines of the angles by which pairs of dimensions are rotated: (T, K/2), or (B, 1, T, K/2).

    There are fewer than K/2 if only the first dimensions are rotated.

    Example:

        >>> angle = torch.zeros(3, 2)
        >>> Rotation(angle.cos(), angle.sin()).cos.shape
        torch.Size([3, 2])
    """

    cos: Tensor
    sin: Tensor


class PositionalEncoding(nn.Module):
    """The base of all encodings; by itself it encodes no position.

    Example:

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> PositionalEncoding(config).embed(torch.ones(1, 2, 4), torch.arange(2)).sum().item()
        8.0
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """Add positions to token embeddings, or join them: (B, T, config.token_width) -> (B, T, D)."""
        return hidden

    def rotation(self, positions: Tensor) -> Rotation | None:
        """Return the rotation of the queries and keys at these positions, the same in every layer."""
        return None

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """Return what is added to the scaled scores of every layer: (H, T, S) or (B, H, T, S)."""
        return None

    def table(self, n_positions: int) -> Tensor | None:
        """Return a table of the first positions for a figure: (n_positions, columns); None if there is none."""
        return None


class LearnedPositions(PositionalEncoding):
    """One trained vector per position up to context_length, added to the token's, as in GPT-2.

    Source: Radford et al. 2019; Gehring et al. 2017, section 3.1.

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> LearnedPositions(config).embed(torch.zeros(1, 3, 4), torch.arange(3)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.context_length, config.d_model)

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return hidden + self.embedding(positions)

    def table(self, n_positions: int) -> Tensor:
        """Return the trained vectors: (n_positions, D)."""
        return self.embedding.weight[:n_positions]


class ConcatenatedPositions(LearnedPositions):
    """One trained vector per position up to context_length, joined to the token's: their widths add up to D.

    Example:

        >>> sizes = {"vocab_size": 65, "context_length": 8, "n_layers": 1, "n_heads": 2, "d_model": 4}
        >>> config = TransformerConfig(positional_encoding="concatenated", **sizes)
        >>> config.token_width, config.position_width
        (2, 2)
        >>> ConcatenatedPositions(config).embed(torch.zeros(1, 3, 2), torch.arange(3)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, config: TransformerConfig) -> None:
        PositionalEncoding.__init__(self, config)
        self.embedding = nn.Embedding(config.context_length, config.position_width)

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        vectors = self.embedding(positions)  # (T, P) or (B, T, P)
        return torch.cat((hidden, vectors.expand(hidden.size(0), -1, -1)), dim=-1)


class SinusoidalPositions(PositionalEncoding):
    """Fixed sines and cosines of geometrically growing wavelengths: nothing to train, and no last position.

    Source: Vaswani et al. 2017, section 3.5. The factor sqrt(d_model) on the tokens is config.scale_embedding. The
    vectors are computed for the positions that are asked for, and no table is saved: it would have an end, and nothing
    in it is learned.

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> SinusoidalPositions(config).table(2).round(decimals=4).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.8414999842643738, 0.5403000116348267, 0.009999999776482582, 1.0]]
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.d_model, self.base = config.d_model, config.positional_base

    def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return hidden + sinusoids(positions, self.d_model, self.base).to(hidden.dtype)

    def table(self, n_positions: int) -> Tensor:
        """Return the paper's table: (n_positions, D)."""
        return sinusoids(torch.arange(n_positions), self.d_model, self.base)


class RotaryPositions(PositionalEncoding):
    """Rotate queries and keys by their position, so that their product depends only on the distance.

    Source: Su et al. 2021 (RoFormer), section 3.4.2, equation 34. A pair consists of dimensions i and i + K/2, as in
    GPT-NeoX and LLaMA; the paper pairs neighbors. Up to the order of the dimensions the function is the same. With
    config.rotary_fraction, the first dimensions of a head are rotated and the others know no position (GPT-NeoX, Black
    et al. 2022, section 2.1); K is then the number of those rotated.

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> RotaryPositions(config).rotation(torch.arange(3)).cos.shape
        torch.Size([3, 1])
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.width, self.base, self.scaling = config.rotary_width, config.positional_base, config.rotary_scaling

    def rotation(self, positions: Tensor) -> Rotation:
        """(T,) -> cos and sin (T, K/2); (B, T) -> cos and sin (B, 1, T, K/2), for all heads."""
        divisors = None if self.scaling is None else self.scaling.divisors(self.width, self.base)
        theta = angles(positions, self.width, self.base, divisors)
        if positions.ndim == 2:
            theta = theta.unsqueeze(1)
        cos, sin = theta.cos(), theta.sin()
        if self.scaling is not None:
            cos, sin = cos * self.scaling.amplitude, sin * self.scaling.amplitude
        return Rotation(cos.float(), sin.float())

    def table(self, n_positions: int) -> Tensor:
        """Return the cosines of the angles: (n_positions, K/2)."""
        return self.rotation(torch.arange(n_positions)).cos


class ALiBiPositions(PositionalEncoding):
    """Lower the scores linearly with the distance, with a fixed slope for each head: nothing to train.

    Source: Press et al. 2022 (ALiBi), section 3. In bidirectional attention the distance is absolute.

        >>> config = TransformerConfig(vocab_size=65, context_length=8, n_layers=1, n_heads=2, d_model=4)
        >>> ALiBiPositions(config).bias(torch.tensor([2]), torch.arange(3))[0].tolist()
        [[-0.125, -0.0625, -0.0]]
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
        """Return the bias of a key at each distance: (n_positions, H)."""
        return -self.slopes * torch.arange(n_positions, device=self.slopes.device)[:, None]


POSITIONAL_ENCODINGS: dict[str, type[PositionalEncoding]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "concatenated": ConcatenatedPositions,
    "rotary": RotaryPositions,
    "alibi": ALiBiPositions,
    "none": PositionalEncoding,
}
"""positional_encoding.name -> class. Add a new encoding here."""


def build_positional_encoding(config: TransformerConfig) -> PositionalEncoding:
    """Build the module that config.positional_encoding names. Raises: ValueError listing the known names."""
    if config.positional_encoding not in POSITIONAL_ENCODINGS:
        known = ", ".join(POSITIONAL_ENCODINGS)
        raise ValueError(f"positional_encoding={config.positional_encoding} is not one of {known}")
    return POSITIONAL_ENCODINGS[config.positional_encoding](config)


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Rotate pairs of dimensions of queries or keys: (B, H, T, K) -> (B, H, T, K)."""
    n_rotated = 2 * rotation.cos.size(-1)
    if n_rotated < vectors.size(-1):
        return torch.cat((rotate(vectors[..., :n_rotated], rotation), vectors[..., n_rotated:]), dim=-1)
    first, second = vectors.chunk(2, dim=-1)  # (B, H, T, K/2)
    cos, sin = rotation
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.type_as(vectors)  # the angles are float32 even if autocast made the vectors smaller


def angles(positions: Tensor, width: int, base: float, divisors: list[float] | None = None) -> Tensor:
    """positions / base^(2i / width) for each pair i of `width` dimensions: (..., T) -> (..., T, width / 2).

    Other divisors than base^(2i / width), one for each pair, may be given.

    Computed in float64 if the device has it: in float32 the angles of late positions lose their last digits.
    """
    dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    if divisors is not None:
        return positions.to(dtype)[..., None] / torch.tensor(divisors, dtype=dtype, device=positions.device)
    exponents = torch.arange(0, width, 2, dtype=dtype, device=positions.device) / width
    return positions.to(dtype)[..., None] / base**exponents


def sinusoids(positions: Tensor, d_model: int, base: float = 10_000.0) -> Tensor:
    """(..., T) -> (..., T, D): [2i] = sin(p / base^(2i / D)) and [2i + 1] = cos of the same angle.

    Source: Vaswani et al. 2017, section 3.5.
    """
    theta = angles(positions, d_model, base)
    return torch.stack((theta.sin(), theta.cos()), dim=-1).flatten(start_dim=-2).float()


def alibi_slopes(n_heads: int) -> list[float]:
    """Return the geometric sequence 2^(-8/H), 2^(-16/H) ... 2^-8 (Press et al. 2022, section 3).

    If H is not a power of two, then as in the authors' code: the slopes of the next lower power, followed by every
    second slope of the next higher one.
    """
    power = 2 ** (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return slopes + between[: n_heads - power]
