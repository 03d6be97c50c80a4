"""The encoder attends to both sides, but not to padding."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import OTHER_CHOICES, TINY, build, differs, random_tokens, with_another_token
from torch_reference import TorchStack, symbols_of

from folio.models import GPT, Encoder
from folio.models.masks import padding_mask
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.models.transformer_config import BOUNDED_POSITIONS

each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
each_choice = pytest.mark.parametrize("choices", [{}, OTHER_CHOICES], ids=["defaults", "others"])


@each_encoding
def test_each_position_has_a_logit_for_each_symbol(encoding: str) -> None:
    assert build(Encoder, positional_encoding=encoding)(random_tokens(2, 7)).shape == (2, 7, TINY.vocab_size)


@each_choice
@each_encoding
@pytest.mark.parametrize("changed", [0, 6, 11])
def test_a_token_changes_the_logits_on_both_sides(changed: int, encoding: str, choices: dict[str, Any]) -> None:
    model, tokens = build(Encoder, positional_encoding=encoding, **choices), random_tokens(2, 12)
    assert differs(model(tokens), model(with_another_token(tokens, changed))).all()


@each_choice
@each_encoding
@settings(max_examples=10)  # of each of 10 models
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    n_more=st.integers(0, 4),
    padding=st.integers(0, TINY.vocab_size - 1),
)
def test_a_sequence_has_the_same_outputs_alone_and_padded_in_a_batch(
    encoding: str, choices: dict[str, Any], lengths: list[int], n_more: int, padding: int
) -> None:
    model = build(Encoder, positional_encoding=encoding, n_layers=2, **choices)
    tokens = random_tokens(len(lengths), max(lengths) + n_more)
    tokens[~padding_mask(torch.tensor(lengths), tokens.size(1))] = padding
    together = model(tokens, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(together[row, :length], model(tokens[row : row + 1, :length])[0])


@each_encoding
def test_lengths_of_rows_without_padding_change_nothing(encoding: str) -> None:
    model, tokens = build(Encoder, positional_encoding=encoding), random_tokens(2, 6)
    torch.testing.assert_close(model(tokens, torch.tensor([6, 6])), model(tokens))


def test_a_symbol_that_occurs_only_as_padding_gets_no_gradient() -> None:
    model, tokens = build(Encoder, tie_weights=False), torch.tensor([[1, 2, 7, 7], [1, 2, 3, 4]])
    model(tokens, torch.tensor([2, 4]))[padding_mask(torch.tensor([2, 4]), 4)].sum().backward()
    gradient = model.token_embedding.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert (gradient[7] == 0).all()
    assert (gradient[[1, 2, 3, 4]] != 0).any(dim=1).all()


@pytest.mark.parametrize("choices", [{}, {"bias": False, "activation": "relu", "d_ff": 20}], ids=str)
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_torchs_own_encoder_gives_the_same_logits_and_gradients(norm_position: str, choices: dict[str, Any]) -> None:
    model = build(Encoder, norm_position=norm_position, **choices)
    reference = TorchStack(model, symbols_of(model))
    tokens, lengths = random_tokens(3, 8), torch.tensor([8, 1, 5])
    is_seen = padding_mask(lengths, 8)
    logits = model(tokens, lengths)[is_seen]
    expected = (reference(tokens, causal=False, padding=~is_seen) @ reference.symbols.T)[is_seen]
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for each in (logits, expected):
        each.logsumexp(dim=-1).sum().backward()
    reference.assert_gradients_of(model)


@pytest.mark.parametrize("encoding", sorted(POSITIONAL_ENCODINGS.keys() - {"none"}))
def test_the_order_of_the_tokens_matters(encoding: str) -> None:
    model, tokens = build(Encoder, positional_encoding=encoding, n_layers=1), random_tokens(1, 8)
    order = torch.tensor([7, 3, 5, 1, 0, 2, 4, 6])
    assert differs(model(tokens[:, order]), model(tokens)[:, order]).all()


def test_without_positions_reordering_the_tokens_only_reorders_the_outputs() -> None:
    model, tokens = build(Encoder, positional_encoding="none"), random_tokens(1, 8)
    order = torch.tensor([7, 3, 5, 1, 0, 2, 4, 6])
    torch.testing.assert_close(model(tokens[:, order]), model(tokens)[:, order])


@pytest.mark.parametrize("lengths", [[0, 3], [4, 5], [-2, 4]], ids=str)
def test_impossible_lengths_are_refused_in_one_line(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^lengths=.* must be at least 1 and at most the 4 tokens of a row$"):
        build(Encoder)(random_tokens(2, 4), torch.tensor(lengths))


def test_learned_positions_refuse_a_sequence_longer_than_the_context() -> None:
    with pytest.raises(ValueError, match=r"17 tokens is longer than the model's context_length=16"):
        build(Encoder)(random_tokens(1, 17))


@pytest.mark.parametrize("encoding", sorted(POSITIONAL_ENCODINGS.keys() - BOUNDED_POSITIONS))
def test_the_other_encodings_work_past_the_context_of_training(encoding: str) -> None:
    model, tokens = build(Encoder, positional_encoding=encoding), random_tokens(2, 45)
    logits = model(tokens, torch.tensor([16, 45]))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0, :16], model(tokens[:1, :16])[0])


@each_choice
def test_an_encoder_has_the_parameters_of_a_decoder_of_its_size(choices: dict[str, Any]) -> None:
    encoder, decoder = build(Encoder, **choices), build(GPT, **choices)
    assert {name: value.shape for name, value in encoder.state_dict().items()} == {
        name: value.shape for name, value in decoder.state_dict().items()
    }
    assert encoder.n_parameters == encoder.n_trainable_parameters == decoder.n_parameters
    assert encoder.n_parameters_without_embeddings == decoder.n_parameters_without_embeddings


def test_an_encoder_and_a_decoder_with_the_same_weights_differ_only_in_the_mask() -> None:
    """With one layer, the last position of a decoder attends to everything, like a position of an encoder."""
    encoder, decoder, tokens = build(Encoder, n_layers=1), build(GPT, n_layers=1), random_tokens(2, 9)
    decoder.load_state_dict(encoder.state_dict())
    ours, from_decoder = encoder(tokens), decoder(tokens)
    torch.testing.assert_close(ours[:, -1], from_decoder[:, -1])
    assert differs(ours, from_decoder)[:, :-1].all()


@pytest.mark.parametrize("tie_weights", [True, False])
def test_the_output_layer_is_the_embedding_if_they_are_tied(tie_weights: bool) -> None:
    model = build(Encoder, tie_weights=tie_weights)
    assert (model.output.weight is model.token_embedding.weight) is tie_weights
    torch.testing.assert_close(model(random_tokens(1, 3)), model.hidden(random_tokens(1, 3)) @ model.output.weight.T)
