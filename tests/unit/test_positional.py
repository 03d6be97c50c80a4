"""Positional encodings say where a token stands, as their papers define it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import attention_map_of
from torch import Tensor

from folio.models import GPT, GPTConfig
from folio.models.blocks import SelfAttention
from folio.models.masks import AttentionMask
from folio.models.positional import (
    POSITIONAL_ENCODINGS,
    ALiBiPositions,
    LearnedPositions,
    PositionalEncoding,
    RotaryPositions,
    SinusoidalPositions,
    alibi_slopes,
    build_positional_encoding,
    rotate,
    sinusoids,
)

SHAPE = GPTConfig(vocab_size=11, context_length=8, n_layers=1, n_heads=2, d_model=4)
POSITIONS = torch.arange(4)

each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)


def random_vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Sinusoidal


def test_sinusoids_have_the_values_of_the_paper_computed_by_hand() -> None:
    expected = [
        [0.0, 1.0, 0.0, 1.0],
        [0.8414710, 0.5403023, 0.0099998, 0.9999500],  # sin 1, cos 1, sin 0.01, cos 0.01
        [0.9092974, -0.4161468, 0.0199987, 0.9998000],
        [0.1411200, -0.9899925, 0.0299955, 0.9995500],
    ]
    torch.testing.assert_close(sinusoids(POSITIONS, 4), torch.tensor(expected), rtol=0, atol=1e-7)


@given(position=st.integers(-400, 400), pair=st.integers(0, 7), base=st.floats(2.0, 1e6))
def test_sinusoids_follow_the_formula_for_any_base(position: int, pair: int, base: float) -> None:
    angle = position * base ** (-2 * pair / 16)
    row = sinusoids(torch.tensor([position]), 16, base)[0]
    assert row[2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
    assert row[2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_late_positions_keep_their_digits() -> None:
    position = 1_000_003
    assert sinusoids(torch.tensor(position), 4)[2].item() == pytest.approx(math.sin(position / 100), abs=1e-6)


def test_a_shift_is_the_same_rotation_everywhere() -> None:
    """The paper chose it for this: the encoding of p + k is a linear function of that of p."""
    pairs = torch.view_as_complex(sinusoids(torch.arange(64), 16).view(64, 8, 2))
    ratios = pairs[5:] / pairs[:-5]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("choices", "factor"),
    [
        ({"positional_encoding": "sinusoidal"}, 2.0),
        ({"positional_encoding": "sinusoidal", "scale_embedding": False}, 1.0),
        ({"positional_encoding": "none"}, 1.0),
        ({"positional_encoding": "none", "scale_embedding": True}, 2.0),
    ],
)
def test_tokens_are_scaled_by_the_root_of_d_model_if_the_config_says_so(choices: dict[str, Any], factor: float) -> None:
    model, tokens = GPT(replace(SHAPE, **choices)), torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    table = sinusoids(POSITIONS, 4) if choices["positional_encoding"] == "sinusoidal" else 0.0
    torch.testing.assert_close(model.embed(tokens, POSITIONS), factor * model.token_embedding.weight[tokens] + table)


# Learned, concatenated


def test_learned_positions_are_added_and_get_gradients_up_to_the_end_of_the_sequence() -> None:
    positions = LearnedPositions(SHAPE)
    hidden = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    moved = positions.embed(hidden, torch.arange(3))
    torch.testing.assert_close(moved, hidden + positions.embedding.weight[:3])
    moved.sum().backward()
    assert positions.embedding.weight.grad is not None
    assert positions.embedding.weight.grad[:, 0].tolist() == [2.0] * 3 + [0.0] * 5


@pytest.mark.parametrize(("width", "expected"), [(None, 2), (1, 1), (3, 3)])
def test_concatenated_positions_are_joined_to_the_tokens(width: int | None, expected: int) -> None:
    model = GPT(replace(SHAPE, positional_encoding="concatenated", positional_width=width))
    tokens, table = torch.tensor([[3, 1, 4], [1, 5, 9]]), model.positional_encoding.embedding.weight
    assert (model.token_embedding.weight.shape, table.shape) == ((11, 4 - expected), (8, expected))
    for positions in (torch.tensor([2, 3, 4]), torch.tensor([[2, 3, 4], [0, 1, 2]])):
        hidden = model.embed(tokens, positions)
        vectors = table[positions].expand(2, 3, expected)
        assert torch.equal(hidden, torch.cat((model.token_embedding.weight[tokens], vectors), dim=-1))


@pytest.mark.parametrize("encoding", ["learned", "concatenated"])
def test_positions_can_start_at_zero_and_change_no_other_initial_weight(encoding: str) -> None:
    torch.manual_seed(0)
    drawn = GPT(replace(SHAPE, positional_encoding=encoding)).state_dict()
    torch.manual_seed(0)
    zeroed = GPT(replace(SHAPE, positional_encoding=encoding, positional_init="zeros")).state_dict()
    for name, weight in drawn.items():
        if name == "positional_encoding.embedding.weight":
            assert weight.all()
            assert not zeroed[name].any()
        else:
            assert torch.equal(zeroed[name], weight)


# Rotary


def rotated_as_in_the_paper(vectors: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """RoFormer, equation 34: dimensions 2i and 2i + 1 form a complex number, rotated by the angle m theta_i."""
    width = vectors.size(-1)
    thetas = torch.tensor([base ** (-2 * i / width) for i in range(width // 2)], dtype=torch.float64)
    turns = torch.polar(torch.ones((), dtype=torch.float64), positions.double()[:, None] * thetas)
    pairs = torch.view_as_complex(vectors.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(start_dim=-2)


def to_halves(vectors: Tensor) -> Tensor:
    """Move the paper's pairs (2i, 2i + 1) to i and i + K/2, the documented order."""
    return torch.cat((vectors[..., 0::2], vectors[..., 1::2]), dim=-1)


@given(base=st.sampled_from([50.0, 10_000.0, 500_000.0]), start=st.integers(-100, 3000), seed=st.integers(0, 5))
def test_rotary_is_the_papers_formula_up_to_the_order_of_dimensions(base: float, start: int, seed: int) -> None:
    encoding = RotaryPositions(replace(SHAPE, d_model=16, positional_base=base))
    vectors, positions = random_vectors(2, 2, 5, 8, seed=seed), torch.arange(start, start + 5)
    turned = rotate(to_halves(vectors), encoding.rotation(positions))
    torch.testing.assert_close(turned, to_halves(rotated_as_in_the_paper(vectors, positions, base)), rtol=0, atol=1e-6)


def test_rotary_reaches_the_scores_of_attention() -> None:
    torch.manual_seed(0)
    config = replace(SHAPE, d_model=16, n_heads=1)
    attention, hidden = SelfAttention(config).double(), random_vectors(1, 6, 16)
    q, k, _ = attention.qkv_projection(hidden).chunk(3, dim=-1)
    order = to_halves(torch.arange(16)).argsort()  # from halves to the paper's pairs
    positions = torch.arange(6)
    q, k = (rotated_as_in_the_paper(part[..., order].contiguous(), positions) for part in (q, k))
    scores = attention_map_of(attention, hidden, AttentionMask(), RotaryPositions(config).rotation(positions)).scores
    torch.testing.assert_close(scores[:, 0], q @ k.transpose(-2, -1), rtol=0, atol=1e-6)


@given(query=st.integers(0, 200), key=st.integers(0, 200), shift=st.integers(-200, 2000))
def test_rotary_products_depend_only_on_the_distance(query: int, key: int, shift: int) -> None:
    encoding = RotaryPositions(replace(SHAPE, d_model=32))
    q, k = random_vectors(2, 1, 1, 1, 16)

    def product(query: int, key: int) -> float:
        turned_q = rotate(q, encoding.rotation(torch.tensor([query])))
        turned_k = rotate(k, encoding.rotation(torch.tensor([key])))
        return (turned_q * turned_k).sum().item()

    assert product(query + shift, key + shift) == pytest.approx(product(query, key), abs=1e-5)


def test_rotary_keeps_lengths_and_does_not_change_position_0() -> None:
    encoding, vectors = RotaryPositions(replace(SHAPE, d_model=16)), random_vectors(2, 2, 30, 8)
    turned = rotate(vectors, encoding.rotation(torch.arange(30)))
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], vectors[:, :, 0])
    assert not torch.isclose(turned[:, :, 1:], vectors[:, :, 1:]).all(dim=-1).any()


def test_rows_that_start_at_different_positions_are_rotated_separately() -> None:
    encoding, vectors = RotaryPositions(replace(SHAPE, d_model=16)), random_vectors(2, 2, 3, 8)
    starts = torch.tensor([[4, 5, 6], [0, 1, 2]])
    together = rotate(vectors, encoding.rotation(starts))
    for row in range(2):
        assert torch.equal(together[row], rotate(vectors[row], encoding.rotation(starts[row])))


# ALiBi


def test_alibi_slopes_of_8_heads_are_the_papers() -> None:
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


def test_alibi_slopes_of_12_heads_are_those_of_8_and_every_second_of_16() -> None:
    assert alibi_slopes(12) == pytest.approx([*alibi_slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def slopes_of_the_authors(n: int) -> list[float]:
    """Compute them as in ofirpress/attention_with_linear_biases, fairseq/models/transformer.py."""
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]
    closest = 2 ** math.floor(math.log2(n))
    return slopes_of_the_authors(closest) + slopes_of_the_authors(2 * closest)[0::2][: n - closest]


@given(n_heads=st.integers(1, 200))
def test_alibi_slopes_are_those_of_the_authors_recipe(n_heads: int) -> None:
    slopes = alibi_slopes(n_heads)
    assert slopes == pytest.approx(slopes_of_the_authors(n_heads))
    assert len(set(slopes)) == n_heads


def test_alibi_subtracts_slope_times_distance_from_a_score() -> None:
    bias = ALiBiPositions(SHAPE).bias(torch.tensor([2, 3]), POSITIONS)  # slopes of 2 heads: 1/16 and 1/256
    distances = torch.tensor([[2.0, 1.0, 0.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
    assert torch.equal(bias, torch.stack((-distances / 16, -distances / 256)))


def test_alibi_depends_only_on_the_distance() -> None:
    encoding = ALiBiPositions(SHAPE)
    assert torch.equal(encoding.bias(POSITIONS, POSITIONS), encoding.bias(POSITIONS + 70, POSITIONS + 70))


def test_alibi_of_rows_that_start_at_different_positions_is_separate() -> None:
    encoding, rows = ALiBiPositions(SHAPE), torch.tensor([[0, 0, 0, 1], [0, 1, 2, 3]])
    together = encoding.bias(rows[:, 2:], rows)
    assert together.shape == (2, 2, 2, 4)
    for row in range(2):
        assert torch.equal(together[row], encoding.bias(rows[row, 2:], rows[row]))


# All


def test_no_encoding_adds_nothing_anywhere() -> None:
    encoding, hidden = build_positional_encoding(replace(SHAPE, positional_encoding="none")), torch.ones(1, 4, 4)
    assert encoding.embed(hidden, POSITIONS) is hidden
    assert encoding.rotation(POSITIONS) is None
    assert encoding.bias(POSITIONS, POSITIONS) is None
    assert encoding.table(4) is None


@each_encoding
def test_an_encoding_enters_at_one_place(encoding: str) -> None:
    module = build_positional_encoding(replace(SHAPE, positional_encoding=encoding))
    hidden = torch.ones(1, 4, 2 if encoding == "concatenated" else 4)
    enters = {
        "embed": module.embed(hidden, POSITIONS) is not hidden,
        "rotation": module.rotation(POSITIONS) is not None,
        "bias": module.bias(POSITIONS, POSITIONS) is not None,
    }
    places = {"learned": "embed", "sinusoidal": "embed", "concatenated": "embed", "rotary": "rotation"}
    places |= {"alibi": "bias", "none": None}
    assert {name for name, does in enters.items() if does} == {places[encoding]} - {None}


@each_encoding
def test_only_learned_and_concatenated_positions_are_trained_saved_and_bounded(encoding: str) -> None:
    model = GPT(replace(SHAPE, positional_encoding=encoding))
    is_learned = encoding in ("learned", "concatenated")
    assert bool(list(model.positional_encoding.parameters())) is is_learned
    assert any("positional_encoding" in key for key in model.state_dict()) is is_learned
    assert (model.config.max_positions == SHAPE.context_length) is is_learned


@pytest.mark.parametrize("base", [100.0, 10_000.0])
def test_the_base_of_the_config_reaches_sinusoidal_and_rotary(base: float) -> None:
    config = replace(SHAPE, d_model=8, positional_base=base)
    table = GPT(replace(config, positional_encoding="sinusoidal")).positional_encoding.table(3)
    assert torch.equal(table, sinusoids(torch.arange(3), 8, base))
    rotation = GPT(replace(config, positional_encoding="rotary")).positional_encoding.rotation(torch.tensor([3]))
    torch.testing.assert_close(rotation.cos, torch.tensor([[math.cos(3), math.cos(3 / base**0.5)]]))
    torch.testing.assert_close(rotation.sin, torch.tensor([[math.sin(3), math.sin(3 / base**0.5)]]))


def test_the_table_for_figures_is_what_the_model_uses() -> None:
    learned, rotary, alibi = LearnedPositions(SHAPE), RotaryPositions(replace(SHAPE, d_model=8)), ALiBiPositions(SHAPE)
    assert torch.equal(learned.table(4), learned.embedding.weight[:4])
    assert torch.equal(SinusoidalPositions(SHAPE).table(4), sinusoids(POSITIONS, 4))
    assert torch.equal(rotary.table(4), rotary.rotation(POSITIONS).cos)
    assert torch.equal(alibi.table(4), alibi.bias(torch.tensor([0]), POSITIONS)[:, 0].T)


def test_a_new_encoding_is_a_class_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/extend.md says."""

    class TokenCounts(PositionalEncoding):
        def embed(self, hidden: Tensor, positions: Tensor) -> Tensor:
            return hidden + positions[:, None]

    monkeypatch.setitem(POSITIONAL_ENCODINGS, "counts", TokenCounts)
    model = GPT(replace(SHAPE, positional_encoding="counts"))
    assert model(torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 11)
