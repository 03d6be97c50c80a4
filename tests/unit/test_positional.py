"""Positional encodings say where a token stands, as their papers define it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from folio.models import GPT, GPTConfig
from folio.models.positional import LearnedPositions, SinusoidalPositions, sinusoidal_table

SHAPE = GPTConfig(vocab_size=11, context_length=8, n_layers=1, n_heads=2, d_model=4, positional_encoding="sinusoidal")


def test_the_table_has_the_values_of_the_paper_computed_by_hand() -> None:
    expected = [
        [0.0, 1.0, 0.0, 1.0],
        [0.8414710, 0.5403023, 0.0099998, 0.9999500],  # sin 1, cos 1, sin 0.01, cos 0.01
        [0.9092974, -0.4161468, 0.0199987, 0.9998000],
        [0.1411200, -0.9899925, 0.0299955, 0.9995500],
    ]
    torch.testing.assert_close(sinusoidal_table(4, 4), torch.tensor(expected), rtol=0, atol=1e-7)


@given(position=st.integers(0, 400), pair=st.integers(0, 7), base=st.floats(2.0, 1e6))
def test_the_table_follows_the_formula_for_any_base(position: int, pair: int, base: float) -> None:
    angle = position * base ** (-2 * pair / 16)
    row = sinusoidal_table(position + 1, 16, base)[position]
    assert row[2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
    assert row[2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_late_positions_keep_their_digits() -> None:
    position = 1_000_003
    table = sinusoidal_table(position + 1, 4)
    assert table[position, 2].item() == pytest.approx(math.sin(position / 100), abs=1e-6)


def test_a_shift_is_the_same_rotation_everywhere() -> None:
    """Why the paper chose it: the encoding of p + k is a linear function of that of p."""
    table = sinusoidal_table(64, 16).view(64, 8, 2)
    pairs = torch.view_as_complex(table)
    ratios = pairs[5:] / pairs[:-5]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=0, atol=1e-5)


def test_sinusoidal_positions_are_added_to_tokens_scaled_by_the_root_of_d_model() -> None:
    hidden = torch.ones(2, 3, 4)
    expected = 2.0 * hidden + sinusoidal_table(3, 4)
    torch.testing.assert_close(SinusoidalPositions(SHAPE)(hidden), expected)


def test_sinusoidal_positions_are_neither_trained_nor_saved() -> None:
    model = GPT(SHAPE)
    assert "positional_encoding.table" in dict(model.named_buffers())
    assert list(model.positional_encoding.parameters()) == []
    assert not any("positional_encoding" in key for key in model.state_dict())


def test_the_base_of_the_config_reaches_the_table() -> None:
    config = GPTConfig(**{**vars(SHAPE), "positional_base": 100.0})
    assert torch.equal(GPT(config).get_buffer("positional_encoding.table"), sinusoidal_table(8, 4, base=100.0))


def test_learned_positions_are_added_and_trained_as_far_as_the_sequence_reaches() -> None:
    positions = LearnedPositions(SHAPE)
    hidden = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    moved = positions(hidden)
    torch.testing.assert_close(moved, hidden + positions.embedding.weight[:3])
    moved.sum().backward()
    assert positions.embedding.weight.grad is not None
    assert positions.embedding.weight.grad[:, 0].tolist() == [2.0] * 3 + [0.0] * 5
