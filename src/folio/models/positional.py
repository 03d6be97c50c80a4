"""Positional encodings, each a module that adds "where" to "what": (B, T, D) -> (B, T, D).

To add one: write a class here with the same constructor and `forward`, enter it in `POSITIONAL_ENCODINGS`,
and put `conf/positional_encoding/<name>.yaml` beside the others.
"""

import torch
from torch import Tensor, nn

from folio.models.gpt_config import GPTConfig


class LearnedPositions(nn.Module):
    """One trained vector per position, as in GPT-2; knows no position past context_length.

    Source: Radford et al. 2019; Gehring et al. 2017, section 3.1.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.context_length, config.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return hidden + self.embedding.weight[: hidden.size(1)]


class SinusoidalPositions(nn.Module):
    """Fixed sines and cosines of geometrically growing wavelengths: nothing to train.

    Source: Vaswani et al. 2017, section 3.5 for the table, 3.4 for the factor sqrt(d_model) on the tokens,
    without which its unit amplitude would drown embeddings that start small.
    """

    table: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        table = sinusoidal_table(config.context_length, config.d_model, config.positional_base)
        self.register_buffer("table", table, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return hidden * hidden.size(-1) ** 0.5 + self.table[: hidden.size(1)]


def sinusoidal_table(n_positions: int, d_model: int, base: float = 10_000.0) -> Tensor:
    """Encodings of positions 0 .. n_positions - 1, shape (n_positions, D).

    table[p, 2i] = sin(p / base^(2i / D)) and table[p, 2i + 1] = cos of the same angle.
    Source: Vaswani et al. 2017, section 3.5. Angles are taken in float64: in float32 those of late positions
    lose their last digits.
    """
    positions = torch.arange(n_positions, dtype=torch.float64)[:, None]
    exponents = torch.arange(0, d_model, 2, dtype=torch.float64) / d_model
    angles = positions / base**exponents  # (n_positions, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(start_dim=1).float()


POSITIONAL_ENCODINGS: dict[str, type[nn.Module]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
}


def build_positional_encoding(config: GPTConfig) -> nn.Module:
    """The module that config.positional_encoding names. Raises: ValueError naming the known ones."""
    if config.positional_encoding not in POSITIONAL_ENCODINGS:
        known = ", ".join(POSITIONAL_ENCODINGS)
        raise ValueError(f"positional_encoding={config.positional_encoding} is not one of {known}")
    return POSITIONAL_ENCODINGS[config.positional_encoding](config)
