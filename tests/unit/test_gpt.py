"""The GPT computes what the papers say, and refuses what it cannot be."""

import math
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from folio.models import GPT, GPTConfig
from folio.models.positional import POSITIONAL_ENCODINGS

TINY = GPTConfig(vocab_size=61, context_length=16, n_layers=3, n_heads=4, d_model=32)

each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)


def build(**changes: Any) -> GPT:
    """A tiny GPT in float64 whose weights, norms and biases included, are large enough to matter."""
    model = GPT(replace(TINY, **changes)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


def random_tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(TINY.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


@each_encoding
def test_each_position_has_a_logit_for_each_symbol(encoding: str) -> None:
    assert GPT(replace(TINY, positional_encoding=encoding))(random_tokens(2, 7)).shape == (2, 7, TINY.vocab_size)


@each_encoding
@given(changed=st.integers(0, 15), shift=st.integers(1, 60))
def test_a_token_changes_no_logits_before_it(encoding: str, changed: int, shift: int) -> None:
    model = build(positional_encoding=encoding)
    tokens = random_tokens(1, 16)
    other = tokens.clone()
    other[0, changed] = (tokens[0, changed] + shift) % TINY.vocab_size
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.isclose(before[:, changed:], after[:, changed:]).all(dim=-1).any()


@each_encoding
@given(length=st.integers(1, 16))
def test_a_shorter_sequence_has_the_logits_of_a_prefix(encoding: str, length: int) -> None:
    model, tokens = build(positional_encoding=encoding), random_tokens(2, 16)
    torch.testing.assert_close(model(tokens[:, :length]), model(tokens)[:, :length])


@each_encoding
def test_the_order_of_the_tokens_before_matters(encoding: str) -> None:
    model, tokens = build(positional_encoding=encoding, n_layers=1), random_tokens(1, 16)
    swapped = tokens[:, [1, 0, *range(2, 16)]]
    assert not torch.isclose(model(tokens)[:, -1], model(swapped)[:, -1]).all()


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"17 tokens is longer than the model's context_length=16"):
        build()(random_tokens(1, 17))


@each_encoding
def test_the_initial_loss_is_that_of_a_guess(encoding: str) -> None:
    torch.manual_seed(0)
    model = GPT(replace(TINY, vocab_size=1000, positional_encoding=encoding))
    tokens, targets = torch.randint(1000, (2, 16, 16))
    loss = F.cross_entropy(model(tokens).flatten(end_dim=1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(1000), abs=0.1)


class TorchGPT(nn.Module):
    """The same function of the same weights, by torch's own transformer."""

    NAMES = (
        ("attention.qkv_projection.", "self_attn.in_proj_"),
        ("attention.out_projection", "self_attn.out_proj"),
        ("feed_forward.in_projection", "linear1"),
        ("feed_forward.out_projection", "linear2"),
        ("attention_norm", "norm1"),
        ("feed_forward_norm", "norm2"),
        ("blocks", "encoder.layers"),
        ("final_norm", "encoder.norm"),
        ("positional_encoding.embedding.weight", "positions"),
        ("token_embedding.weight", "symbols"),
    )

    def __init__(self, model: GPT) -> None:
        super().__init__()
        config = model.config
        layer = nn.TransformerEncoderLayer(
            config.d_model,
            config.n_heads,
            config.feed_forward_width,
            dropout=0.0,
            activation=partial(F.gelu, approximate="tanh"),
            batch_first=True,
            norm_first=True,
            bias=config.bias,
        )
        norm = nn.LayerNorm(config.d_model, bias=config.bias)
        self.encoder = nn.TransformerEncoder(layer, config.n_layers, norm, enable_nested_tensor=False)
        self.symbols = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.positions = nn.Parameter(torch.empty(config.context_length, config.d_model))
        self.double()
        self.load_state_dict({self.name_of(name): value for name, value in model.named_parameters()})

    @classmethod
    def name_of(cls, name: str) -> str:
        """What a parameter of GPT is called here."""
        for ours, theirs in cls.NAMES:
            name = name.replace(ours, theirs)
        return name

    def forward(self, tokens: Tensor) -> Tensor:
        time = tokens.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(time, dtype=torch.float64)
        hidden = self.encoder(self.symbols[tokens] + self.positions[:time], mask, is_causal=True)
        return hidden @ self.symbols.T


@pytest.mark.parametrize("shape", [{}, {"bias": False}, {"d_ff": 40, "n_heads": 1}], ids=str)
def test_torchs_own_transformer_gives_the_same_logits_and_gradients(shape: dict[str, Any]) -> None:
    model = build(**shape)
    reference = TorchGPT(model)
    tokens, targets = random_tokens(2, 12), random_tokens(2, 12, seed=1)
    logits, expected = model(tokens), reference(tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)

    for each in (logits, expected):
        F.cross_entropy(each.flatten(end_dim=1), targets.flatten()).backward()
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[TorchGPT.name_of(name)], rtol=1e-9, atol=1e-9)


def test_float32_is_as_near_to_float64_as_its_digits_allow() -> None:
    model, tokens = build(), random_tokens(2, 16)
    exact = model(tokens)
    torch.testing.assert_close(model.float()(tokens).double(), exact, rtol=1e-4, atol=1e-4)


def gradient_of_a_symbol_that_is_only_predicted(model: GPT) -> Tensor:
    model(torch.tensor([[1, 2, 3]])).logsumexp(dim=-1).sum().backward()
    assert model.token_embedding.weight.grad is not None
    return model.token_embedding.weight.grad[7]


def test_tied_weights_are_one_tensor_that_learns_from_both_ends() -> None:
    model = build(tie_weights=True)
    assert model.output.weight is model.token_embedding.weight
    assert gradient_of_a_symbol_that_is_only_predicted(model).abs().sum() > 0


def test_untied_weights_are_two_tensors_that_learn_apart() -> None:
    model = build(tie_weights=False)
    assert model.output.weight.data_ptr() != model.token_embedding.weight.data_ptr()
    assert gradient_of_a_symbol_that_is_only_predicted(model).abs().sum() == 0


def test_weights_stay_tied_when_others_are_loaded() -> None:
    model, other = build(), GPT(TINY).double()
    model.load_state_dict(other.state_dict())
    assert model.output.weight is model.token_embedding.weight
    assert torch.equal(model.output.weight, other.token_embedding.weight)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_initial_weights_have_gpt2s_deviations(tie_weights: bool) -> None:
    torch.manual_seed(0)
    n_layers = 3
    model = GPT(
        GPTConfig(
            vocab_size=500, context_length=100, n_layers=n_layers, n_heads=4, d_model=128, tie_weights=tie_weights
        )
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 / math.sqrt(2 * n_layers) if "out_projection" in name else 0.02
            # The standard error is below 0.7 % for the smallest of these, 100 x 128 numbers.
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(parameter.mean().item()) < 0.05 * std, name


@pytest.mark.parametrize("place", ["embedding", "attention weights", "residual branches"])
def test_dropout_acts_in_training_alone(place: str) -> None:
    model = build(dropout=0.5)
    if place != "embedding":
        model.dropout.p = 0.0
    for block in model.blocks:
        if place != "attention weights":
            block.attention.dropout = 0.0
        if place != "residual branches":
            block.dropout.p = 0.0
    tokens = random_tokens(1, 16)
    assert torch.equal(model.eval()(tokens), model(tokens))
    assert not torch.isclose(model.train()(tokens), model(tokens)).all()


def test_without_dropout_training_and_evaluation_agree() -> None:
    model, tokens = build(dropout=0.0), random_tokens(2, 16)
    torch.testing.assert_close(model.train()(tokens), model.eval()(tokens))


V, T, D, N_LAYERS = TINY.vocab_size, TINY.context_length, TINY.d_model, TINY.n_layers
IN_BLOCKS = N_LAYERS * (12 * D**2 + 13 * D) + 2 * D


@pytest.mark.parametrize(
    ("shape", "n_parameters", "n_without_embeddings"),
    [
        ({}, (V + T) * D + IN_BLOCKS, IN_BLOCKS),
        ({"tie_weights": False}, (2 * V + T) * D + IN_BLOCKS, IN_BLOCKS),
        ({"positional_encoding": "sinusoidal"}, V * D + IN_BLOCKS, IN_BLOCKS),
        ({"bias": False}, (V + T) * D + N_LAYERS * (12 * D**2 + 2 * D) + D, N_LAYERS * (12 * D**2 + 2 * D) + D),
        (
            {"d_ff": 10},
            (V + T) * D + N_LAYERS * (4 * D**2 + 20 * D + 10 + 9 * D) + 2 * D,
            N_LAYERS * (4 * D**2 + 20 * D + 10 + 9 * D) + 2 * D,
        ),
    ],
    ids=str,
)
def test_parameters_are_counted_as_by_hand(shape: dict[str, Any], n_parameters: int, n_without_embeddings: int) -> None:
    model = GPT(replace(TINY, **shape))
    assert model.count_parameters() == n_parameters
    assert model.count_parameters(embeddings=False) == n_without_embeddings


def test_frozen_parameters_are_not_counted_as_trainable() -> None:
    model = GPT(TINY)
    model.token_embedding.requires_grad_(False)
    assert model.count_parameters(trainable_only=True) == model.count_parameters() - V * D
    assert model.count_parameters(trainable_only=True, embeddings=False) == IN_BLOCKS


@pytest.mark.parametrize(
    ("changes", "value", "remedy"),
    [
        ({"vocab_size": 0}, "vocab_size=0", "1 or more"),
        ({"context_length": -3}, "context_length=-3", "1 or more"),
        ({"n_layers": 0}, "n_layers=0", "1 or more"),
        ({"n_heads": 0}, "n_heads=0", "1 or more"),
        ({"d_model": 0}, "d_model=0", "1 or more"),
        ({"d_ff": 0}, "d_ff=0", "1 or more"),
        ({"d_model": 30}, "d_model=30", "the nearest that works is d_model=32"),
        ({"d_model": 1}, "d_model=1", "the nearest that works is d_model=4"),
        ({"dropout": 1.0}, "dropout=1.0", "below 1"),
        ({"dropout": -0.1}, "dropout=-0.1", "at least 0"),
        ({"dropout": math.nan}, "dropout=nan", "below 1"),
        ({"positional_base": 1.0}, "positional_base=1.0", "10000 is usual"),
        ({"positional_base": math.nan}, "positional_base=nan", "10000 is usual"),
        ({"positional_encoding": "sinusoidal", "d_model": 33, "n_heads": 3}, "d_model=33", "try d_model=36"),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused_with_value_and_remedy(
    changes: dict[str, Any], value: str, remedy: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(value)} .*{re.escape(remedy)}"):
        replace(TINY, **changes)


def test_an_unknown_positional_encoding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="positional_encoding=lerned is not one of learned, sinusoidal"):
        GPT(replace(TINY, positional_encoding="lerned"))


@given(d_model=st.integers(1, 300), n_heads=st.integers(1, 300), encoding=st.sampled_from(["learned", "sinusoidal"]))
def test_the_d_model_that_a_refusal_names_is_accepted(d_model: int, n_heads: int, encoding: str) -> None:
    shape = {"n_heads": n_heads, "positional_encoding": encoding}
    for _ in range(2):  # one refusal may follow the other: divisible, then even
        try:
            replace(TINY, d_model=d_model, **shape)
        except ValueError as error:
            d_model = int(re.findall(r"d_model=(\d+)", str(error))[-1])
    assert replace(TINY, d_model=d_model, **shape).d_head * n_heads == d_model
