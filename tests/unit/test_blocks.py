"""A block computes what the papers say: its activations, its norms, and where norms and dropout act."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import OTHER_CHOICES, TINY, build, lively, random_tokens
from torch import Tensor, nn

from folio.models import GPT, EncoderDecoder
from folio.models.blocks import (
    ACTIVATIONS,
    Block,
    DotProductAttention,
    EncoderOutput,
    FeedForward,
    build_block,
    build_norm,
)
from folio.models.masks import AttentionMask
from folio.models.transformer_config import Activation

D = TINY.d_model
MASK = AttentionMask(is_causal=True)


def random_hidden(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ENCODER_OUTPUT = EncoderOutput(random_hidden(2, 3, D, seed=1), None)


# Activations and the feed-forward layer


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


FORMULAS: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: max(x, 0.0),
    "relu_squared": lambda x: max(x, 0.0) ** 2,
}


@pytest.mark.parametrize("name", FORMULAS)
@given(x=st.floats(-20, 20))
def test_an_activation_is_its_papers_formula(name: str, x: float) -> None:
    y = ACTIVATIONS[name](torch.tensor(x, dtype=torch.float64)).item()
    assert y == pytest.approx(FORMULAS[name](x), rel=1e-9, abs=1e-12)


@given(gate=st.floats(-20, 20), value=st.floats(-20, 20))
def test_swiglu_multiplies_a_value_by_its_gate(gate: float, value: float) -> None:
    y = ACTIVATIONS["swiglu"](torch.tensor([gate, 0.0, value, 1.0], dtype=torch.float64))
    assert y.tolist() == pytest.approx([silu(gate) * value, 0.0], rel=1e-9, abs=1e-12)


def test_every_activation_of_the_config_is_tested_here() -> None:
    assert set(get_args(Activation)) == set(ACTIVATIONS) == {*FORMULAS, "swiglu"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_is_two_matrices_and_an_activation(activation: str, bias: bool) -> None:
    layer = lively(FeedForward(replace(TINY, activation=activation, d_ff=10, bias=bias)))
    hidden = random_hidden(D)
    (w1, b1), (w2, b2) = ((part.weight, part.bias) for part in (layer.in_projection, layer.out_projection))
    inner = w1 @ hidden + (b1 if bias else 0)
    if activation == "swiglu":
        inner = torch.tensor([silu(g) * v for g, v in zip(inner[:10].tolist(), inner[10:].tolist(), strict=True)])
    else:
        inner = torch.tensor([FORMULAS[activation](x) for x in inner.tolist()])
    torch.testing.assert_close(layer(hidden), w2 @ inner.double() + (b2 if bias else 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("d_ff", "width"), [(None, 4 * D), (10, 10)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_has_width_d_ff_and_swiglu_twice_as_many_inputs(
    activation: str, d_ff: int | None, width: int
) -> None:
    layer = FeedForward(replace(TINY, activation=activation, d_ff=d_ff))
    in_width = 2 * width if activation == "swiglu" else width
    assert layer.in_projection.weight.shape == (in_width, D)
    assert layer.out_projection.weight.shape == (D, width)
    n_parameters = sum(parameter.numel() for parameter in layer.parameters())
    assert n_parameters == in_width * (D + 1) + (width + 1) * D


def test_swiglu_with_two_thirds_of_the_width_has_the_same_number_of_weights() -> None:
    """Shazeer 2020 compares it with the others at this width."""
    plain, gated = (
        sum(p.numel() for p in FeedForward(replace(TINY, bias=False, activation=name, d_ff=width)).parameters())
        for name, width in (("gelu", 96), ("swiglu", 64))
    )
    assert plain == gated


# Norms


def test_rms_norm_divides_by_the_root_of_the_mean_square() -> None:
    norm = lively(build_norm(replace(TINY, norm="rms_norm")))
    hidden = random_hidden(D)
    rms = math.sqrt(sum(x * x for x in hidden.tolist()) / D + 1e-5)
    torch.testing.assert_close(norm(hidden), hidden / rms * norm.weight)


def test_layer_norm_subtracts_the_mean_first() -> None:
    norm = lively(build_norm(TINY))
    hidden = random_hidden(D)
    centred = hidden - hidden.mean()
    expected = centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(hidden), expected)


def test_rms_norm_has_a_weight_and_never_a_bias() -> None:
    assert [name for name, _ in build_norm(replace(TINY, norm="rms_norm", bias=True)).named_parameters()] == ["weight"]


@pytest.mark.parametrize(("bias", "names"), [(True, ["weight", "bias"]), (False, ["weight"])])
def test_layer_norm_has_a_bias_if_the_config_says_so(bias: bool, names: list[str]) -> None:
    assert [name for name, _ in build_norm(replace(TINY, bias=bias)).named_parameters()] == names


@pytest.mark.parametrize("cross_attention", [False, True])
def test_without_bias_no_part_of_a_block_has_one(cross_attention: bool) -> None:
    block = Block(replace(TINY, bias=False), cross_attention=cross_attention)
    assert not [name for name, _ in block.named_parameters() if name.endswith("bias")]


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_the_output_layers_input_is_normalized_once(norm_position: str, norm: str) -> None:
    """With pre-norm by the final norm, with post-norm by the last block's own."""
    torch.manual_seed(0)
    model = GPT(replace(TINY, norm_position=norm_position, norm=norm))
    torch.testing.assert_close(
        model.hidden(random_tokens(2, 5)).square().mean(dim=-1), torch.ones(2, 5), atol=0.05, rtol=0
    )
    has_last_norm = any(True for _ in model.final_norm.parameters())
    assert has_last_norm is (norm_position == "pre")


# The place of norms and dropout


class TriplingDropout(nn.Module):
    """Stands in for dropout and triples instead, so that the outputs show where it acts."""

    def __init__(self) -> None:
        super().__init__()
        self.n_calls = 0

    def forward(self, hidden: Tensor) -> Tensor:
        self.n_calls += 1
        return 3 * hidden


def block_with_tripling_dropout(**changes: Any) -> tuple[Block, TriplingDropout]:
    cross_attention = changes.pop("cross_attention", False)
    block = lively(build_block(replace(TINY, **changes), cross_attention=cross_attention))
    dropout = TriplingDropout()
    block.dropout = dropout
    return block, dropout


each_family_of_norm = pytest.mark.parametrize(
    "choices",
    [{}, {name: value for name, value in OTHER_CHOICES.items() if name != "norm_position"}],
    ids=["", "others"],
)


@each_family_of_norm
def test_pre_norm_normalizes_a_sublayers_input_and_drops_its_output(choices: dict[str, Any]) -> None:
    block, dropout = block_with_tripling_dropout(norm_position="pre", **choices)
    x = random_hidden(2, 5, D)
    y = x + 3 * block.attention(block.attention_norm(x), MASK)
    y = y + 3 * block.feed_forward(block.feed_forward_norm(y))
    torch.testing.assert_close(block(x, MASK), y)
    assert dropout.n_calls == 2


@each_family_of_norm
def test_post_norm_can_drop_a_sublayers_output(choices: dict[str, Any]) -> None:
    block, dropout = block_with_tripling_dropout(norm_position="post", post_norm_dropout="output", **choices)
    x = random_hidden(2, 5, D)
    y = block.attention_norm(x + 3 * block.attention(x, MASK))
    y = block.feed_forward_norm(y + 3 * block.feed_forward(y))
    torch.testing.assert_close(block(x, MASK), y)
    assert dropout.n_calls == 2


@each_family_of_norm
def test_post_norm_drops_a_sublayers_input_and_normalizes_the_sum(choices: dict[str, Any]) -> None:
    block, dropout = block_with_tripling_dropout(norm_position="post", **choices)
    x = random_hidden(2, 5, D)
    y = block.attention_norm(x + block.attention(3 * x, MASK))
    y = block.feed_forward_norm(y + block.feed_forward(3 * y))
    torch.testing.assert_close(block(x, MASK), y)
    assert dropout.n_calls == 2


def test_a_pre_norm_block_with_cross_attention_has_three_sublayers_in_the_papers_order() -> None:
    block, dropout = block_with_tripling_dropout(norm_position="pre", cross_attention=True)
    x = random_hidden(2, 5, D)
    y = x + 3 * block.attention(block.attention_norm(x), MASK)
    y = y + 3 * block.cross_attention(block.cross_attention_norm(y), ENCODER_OUTPUT)
    y = y + 3 * block.feed_forward(block.feed_forward_norm(y))
    torch.testing.assert_close(block(x, MASK, encoder_output=ENCODER_OUTPUT), y)
    assert dropout.n_calls == 3


def test_a_post_norm_block_with_cross_attention_has_three_sublayers_in_the_papers_order() -> None:
    block, dropout = block_with_tripling_dropout(norm_position="post", cross_attention=True)
    x = random_hidden(2, 5, D)
    y = block.attention_norm(x + block.attention(3 * x, MASK))
    y = block.cross_attention_norm(y + block.cross_attention(3 * y, ENCODER_OUTPUT))
    y = block.feed_forward_norm(y + block.feed_forward(3 * y))
    torch.testing.assert_close(block(x, MASK, encoder_output=ENCODER_OUTPUT), y)
    assert dropout.n_calls == 3


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_dropout_applies_to_the_embedding_the_branches_and_the_attention_weights(norm_position: str) -> None:
    model = build(GPT, dropout=0.25, norm_position=norm_position)
    rates = [
        model.dropout.p,
        *(block.dropout.p for block in model.blocks),
        *(block.attention.attend.dropout for block in model.blocks),
    ]
    assert rates == [0.25] * (1 + 2 * TINY.n_layers)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("kind", [GPT, EncoderDecoder])
def test_attention_weights_can_have_their_own_rate(kind: type[GPT | EncoderDecoder], rate: float) -> None:
    choices = {"conditioning": "cross_attention"} if kind is EncoderDecoder else {}
    model = build(kind, dropout=0.25, attention_dropout=rate, **choices)
    attentions = [module for module in model.modules() if isinstance(module, DotProductAttention)]
    assert [module.dropout for module in attentions] == [rate] * len(attentions)
    inside = {id(module.dropout) for module in model.modules() if isinstance(module, FeedForward)}
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout) and id(module) not in inside]
    assert {module.p for module in dropouts} == {0.25}
    assert len(attentions) == (TINY.n_layers if kind is GPT else 3 * TINY.n_layers)
