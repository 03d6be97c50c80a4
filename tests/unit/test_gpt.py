"""The GPT computes what the papers say."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TINY, build, differs, random_tokens, with_another_token
from torch import Tensor
from torch_reference import TorchStack, symbols_of

from folio.models import GPT
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.models.transformer_config import BOUNDED_POSITIONS

each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)


@each_encoding
def test_each_position_has_a_logit_for_each_symbol(encoding: str) -> None:
    assert GPT(replace(TINY, positional_encoding=encoding))(random_tokens(2, 7)).shape == (2, 7, TINY.vocab_size)


@each_encoding
@settings(max_examples=30)
@given(changed=st.integers(0, 15), shift=st.integers(1, 60))
def test_a_token_changes_no_logits_before_it(encoding: str, changed: int, shift: int) -> None:
    model, tokens = build(GPT, positional_encoding=encoding), random_tokens(1, 16)
    before, after = model(tokens), model(with_another_token(tokens, changed, shift))
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert differs(before, after)[:, changed:].all()


@each_encoding
def test_a_shorter_sequence_has_the_first_logits_of_a_longer_one(encoding: str) -> None:
    model, tokens = build(GPT, positional_encoding=encoding), random_tokens(2, 16)
    logits = model(tokens)
    for length in range(1, 16):
        torch.testing.assert_close(model(tokens[:, :length]), logits[:, :length])


@each_encoding
def test_no_tokens_have_no_logits(encoding: str) -> None:
    assert build(GPT, positional_encoding=encoding)(random_tokens(2, 0)).shape == (2, 0, TINY.vocab_size)


def logits_after_a_swap_of_early_tokens(model: GPT) -> tuple[Tensor, Tensor]:
    """Return the last position's logits (V,), and those after two early tokens were swapped."""
    tokens = random_tokens(1, 16)
    return model(tokens)[0, -1], model(tokens[:, [1, 0, *range(2, 16)]])[0, -1]


@pytest.mark.parametrize("encoding", sorted(POSITIONAL_ENCODINGS.keys() - {"none"}))
def test_the_order_of_earlier_tokens_matters(encoding: str) -> None:
    logits, others = logits_after_a_swap_of_early_tokens(build(GPT, positional_encoding=encoding, n_layers=1))
    assert not torch.isclose(logits, others).all()


def test_without_positions_order_enters_only_through_earlier_layers() -> None:
    """One layer reads a bag of tokens; a second one also reads what each token attended to (Haviv et al. 2022)."""
    torch.testing.assert_close(*logits_after_a_swap_of_early_tokens(build(GPT, positional_encoding="none", n_layers=1)))
    logits, others = logits_after_a_swap_of_early_tokens(build(GPT, positional_encoding="none", n_layers=2))
    assert not torch.isclose(logits, others).all()


def test_learned_positions_refuse_a_sequence_longer_than_the_context() -> None:
    with pytest.raises(ValueError, match=r"17 tokens is longer than the model's context_length=16.*\(learned\)"):
        build(GPT, positional_encoding="learned")(random_tokens(1, 17))


@pytest.mark.parametrize("encoding", sorted(POSITIONAL_ENCODINGS.keys() - BOUNDED_POSITIONS))
def test_the_other_encodings_work_past_the_context_of_training(encoding: str) -> None:
    model, tokens = build(GPT, positional_encoding=encoding), random_tokens(2, 45)
    logits = model(tokens)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, :16], model(tokens[:, :16]))


@each_encoding
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_stays_in_it(encoding: str, dtype: torch.dtype) -> None:
    model = build(GPT, positional_encoding=encoding, n_layers=1).float()
    exact, logits = model(random_tokens(2, 16)), model.to(dtype)(random_tokens(2, 16))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1 * exact.abs().max().item())


@pytest.mark.parametrize(
    "shape",
    [{}, {"bias": False}, {"d_ff": 40, "n_heads": 1}, {"activation": "relu"}, {"activation": "gelu"}],
    ids=str,
)
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_torchs_own_transformer_gives_the_same_logits_and_gradients(norm_position: str, shape: dict[str, Any]) -> None:
    model = build(GPT, norm_position=norm_position, **shape)
    reference = TorchStack(model, symbols_of(model))
    tokens, targets = random_tokens(2, 12), random_tokens(2, 12, seed=1)
    logits, expected = model(tokens), reference(tokens, causal=True) @ reference.symbols.T
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for each in (logits, expected):
        F.cross_entropy(each.flatten(end_dim=1), targets.flatten()).backward()
    reference.assert_gradients_of(model)


def test_float32_is_as_near_to_float64_as_its_digits_allow() -> None:
    model, tokens = build(GPT), random_tokens(2, 16)
    exact = model(tokens)
    torch.testing.assert_close(model.float()(tokens).double(), exact, rtol=1e-4, atol=1e-4)


def gradient_of_a_symbol_that_is_only_predicted(model: GPT) -> Tensor:
    model(torch.tensor([[1, 2, 3]])).logsumexp(dim=-1).sum().backward()
    assert model.token_embedding.weight.grad is not None
    return model.token_embedding.weight.grad[7]


def test_tied_weights_are_one_tensor_with_gradients_from_both_ends() -> None:
    model = build(GPT, tie_weights=True)
    assert model.output.weight is model.token_embedding.weight
    assert gradient_of_a_symbol_that_is_only_predicted(model).abs().sum() > 0


def test_untied_weights_are_two_tensors_with_separate_gradients() -> None:
    model = build(GPT, tie_weights=False)
    assert model.output.weight.data_ptr() != model.token_embedding.weight.data_ptr()
    assert gradient_of_a_symbol_that_is_only_predicted(model).abs().sum() == 0


def test_weights_stay_tied_when_others_are_loaded() -> None:
    model, other = build(GPT), GPT(TINY).double()
    model.load_state_dict(other.state_dict())
    assert model.output.weight is model.token_embedding.weight
    assert torch.equal(model.output.weight, other.token_embedding.weight)


@pytest.mark.parametrize("place", ["embedding", "attention weights", "residual branches"])
def test_dropout_acts_only_in_training(place: str) -> None:
    model = build(GPT, dropout=0.5)
    if place != "embedding":
        model.dropout.p = 0.0
    for block in model.blocks:
        if place != "attention weights":
            block.attention.attend.dropout = 0.0
        if place != "residual branches":
            block.dropout.p = 0.0
    tokens = random_tokens(1, 16)
    assert torch.equal(model.eval()(tokens), model(tokens))
    assert not torch.isclose(model.train()(tokens), model(tokens)).all()


def test_without_dropout_training_and_evaluation_agree() -> None:
    model, tokens = build(GPT, dropout=0.0), random_tokens(2, 16)
    torch.testing.assert_close(model.train()(tokens), model.eval()(tokens))


V, T, D, K, N_LAYERS = TINY.vocab_size, TINY.context_length, TINY.d_model, TINY.head_width, TINY.n_layers
BLOCK = 12 * D**2 + 13 * D  # attention 4 D^2 + 4 D, feed-forward 8 D^2 + 5 D, two norms of 2 D
IN_BLOCKS = N_LAYERS * BLOCK + 2 * D


@pytest.mark.parametrize(
    ("shape", "n_embeddings", "n_others"),
    [
        ({}, (V + T) * D, IN_BLOCKS),
        ({"tie_weights": False}, (2 * V + T) * D, IN_BLOCKS),
        *(({"positional_encoding": name}, V * D, IN_BLOCKS) for name in ("sinusoidal", "rotary", "alibi", "none")),
        ({"bias": False}, (V + T) * D, N_LAYERS * (12 * D**2 + 2 * D) + D),
        ({"d_ff": 10}, (V + T) * D, N_LAYERS * (4 * D**2 + 20 * D + 10 + 9 * D) + 2 * D),
        ({"norm_position": "post"}, (V + T) * D, N_LAYERS * BLOCK),
        ({"norm": "rms_norm"}, (V + T) * D, N_LAYERS * (BLOCK - 2 * D) + D),
        ({"activation": "swiglu"}, (V + T) * D, N_LAYERS * (BLOCK + 4 * D**2 + 4 * D) + 2 * D),
        ({"activation": "relu_squared"}, (V + T) * D, IN_BLOCKS),
        ({"qk_norm": True}, (V + T) * D, N_LAYERS * (BLOCK + 2 * K) + 2 * D),
        ({"init": "xavier", "dropout": 0.5}, (V + T) * D, IN_BLOCKS),
    ],
    ids=str,
)
def test_parameters_are_counted_as_by_hand(shape: dict[str, Any], n_embeddings: int, n_others: int) -> None:
    model = GPT(replace(TINY, **shape))
    assert model.n_parameters == model.n_trainable_parameters == n_embeddings + n_others
    assert model.n_parameters_without_embeddings == n_others


def test_frozen_parameters_are_not_counted_as_trainable() -> None:
    model = GPT(TINY)
    model.token_embedding.requires_grad_(False)
    model.blocks[0].requires_grad_(False)
    assert model.n_parameters == (V + T) * D + IN_BLOCKS
    assert model.n_trainable_parameters == T * D + IN_BLOCKS - BLOCK
