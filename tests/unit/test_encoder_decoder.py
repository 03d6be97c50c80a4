"""The decoder continues what the encoder has read, by a hidden cache or by cross-attention."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONDITIONINGS, OTHER_CHOICES, TINY, build, differs, random_tokens, with_another_token
from torch import Tensor, nn
from torch_reference import TorchStack, symbols_of

from folio.models import EncoderDecoder
from folio.models.masks import AttentionMask, padding_mask
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.models.transformer_config import BOUNDED_POSITIONS

each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
each_conditioning = pytest.mark.parametrize("conditioning", CONDITIONINGS)
each_choice = pytest.mark.parametrize("choices", [{}, OTHER_CHOICES], ids=["defaults", "others"])

V, T, D, N_LAYERS = TINY.vocab_size, TINY.context_length, TINY.d_model, TINY.n_layers
N_STATES, N_TOKENS = 5, 6


def model_of(conditioning: str, **changes: Any) -> EncoderDecoder:
    return build(EncoderDecoder, conditioning=conditioning, **changes)


def prefix_and_tokens(batch: int = 2) -> tuple[Tensor, Tensor]:
    return random_tokens(batch, N_STATES, seed=1), random_tokens(batch, N_TOKENS)


# What attention reaches


@each_choice
@each_encoding
@each_conditioning
@pytest.mark.parametrize("changed", range(N_STATES))
def test_every_token_of_the_prefix_changes_every_output(
    changed: int, conditioning: str, encoding: str, choices: dict[str, Any]
) -> None:
    model = model_of(conditioning, positional_encoding=encoding, **choices)
    prefix, tokens = prefix_and_tokens()
    assert differs(model(tokens, prefix), model(tokens, with_another_token(prefix, changed))).all()


@each_conditioning
def test_in_one_layer_each_output_attends_to_each_state(conditioning: str) -> None:
    """The states are fixed, so that only the decoder can carry a change to an output."""
    model = model_of(conditioning, n_layers=1)
    prefix, tokens = prefix_and_tokens()
    encoder_output = model.encode(prefix)
    before = model.decode(tokens, encoder_output)
    for place in range(N_STATES):
        states = encoder_output.states.clone()
        states[:, place] += torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(place))
        assert differs(before, model.decode(tokens, encoder_output._replace(states=states))).all()


@each_choice
@each_encoding
@each_conditioning
@pytest.mark.parametrize("changed", [0, 3, N_TOKENS - 1])
def test_a_token_changes_no_logits_before_it(
    changed: int, conditioning: str, encoding: str, choices: dict[str, Any]
) -> None:
    model = model_of(conditioning, positional_encoding=encoding, **choices)
    prefix, tokens = prefix_and_tokens()
    before, after = model(tokens, prefix), model(with_another_token(tokens, changed), prefix)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert differs(before, after)[:, changed:].all()


@each_encoding
def test_states_in_the_decoder_do_not_attend_to_the_continuation(encoding: str) -> None:
    """If they did in the first layer, later layers would pass later tokens on to earlier ones."""
    model, seen = model_of("hidden_cache", positional_encoding=encoding), []
    for block in model.decoder.blocks:
        block.register_forward_hook(lambda block, inputs, output: seen.append(output))
    prefix, tokens = prefix_and_tokens()
    model(tokens, prefix)
    model(random_tokens(2, N_TOKENS, seed=9), prefix)
    for first, second in zip(seen[:N_LAYERS], seen[N_LAYERS:], strict=True):
        assert first.shape == (2, N_STATES + N_TOKENS, D)
        assert torch.equal(first[:, :N_STATES], second[:, :N_STATES])
        assert differs(first, second)[:, N_STATES:].all()


@each_choice
@each_encoding
@each_conditioning
@settings(max_examples=10)  # of each of 20 models
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    n_more=st.integers(0, 3),
    padding=st.integers(0, V - 1),
)
def test_a_row_has_the_same_logits_alone_and_after_a_padded_prefix(
    conditioning: str, encoding: str, choices: dict[str, Any], lengths: list[int], n_more: int, padding: int
) -> None:
    model = model_of(conditioning, positional_encoding=encoding, n_layers=2, **choices)
    prefix, tokens = random_tokens(len(lengths), max(lengths) + n_more, seed=1), random_tokens(len(lengths), N_TOKENS)
    prefix[~padding_mask(torch.tensor(lengths), prefix.size(1))] = padding
    together = model(tokens, prefix, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1], prefix[row : row + 1, :length])
        torch.testing.assert_close(together[row], alone[0])


@each_encoding
@each_conditioning
def test_fewer_tokens_have_the_first_logits_of_a_longer_sequence(conditioning: str, encoding: str) -> None:
    model = model_of(conditioning, positional_encoding=encoding)
    prefix, tokens = prefix_and_tokens()
    logits = model(tokens, prefix)
    assert logits.shape == (2, N_TOKENS, V)
    for length in range(1, N_TOKENS):
        torch.testing.assert_close(model(tokens[:, :length], prefix), logits[:, :length])


@each_conditioning
def test_a_prefix_is_encoded_once_and_continued_any_number_of_times(conditioning: str) -> None:
    model = model_of(conditioning)
    prefix, tokens = prefix_and_tokens()
    lengths = torch.tensor([2, 5])
    encoder_output = model.encode(prefix, lengths)
    for continuation in (tokens, tokens.flip(1)):
        torch.testing.assert_close(
            model.output(model.decode(continuation, encoder_output)), model(continuation, prefix, lengths)
        )


# Compared with references


@pytest.mark.parametrize("choices", [{}, {"bias": False, "activation": "relu", "d_ff": 20}], ids=str)
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_torchs_own_encoder_and_decoder_give_the_same_logits_and_gradients(
    norm_position: str, choices: dict[str, Any]
) -> None:
    model = model_of("cross_attention", norm_position=norm_position, **choices)
    symbols = symbols_of(model.decoder)
    encoder, decoder = TorchStack(model.encoder, symbols), TorchStack(model.decoder, symbols)
    prefix, tokens = prefix_and_tokens(3)
    lengths = torch.tensor([N_STATES, 1, 3])
    padding = ~padding_mask(lengths, N_STATES)
    # Every prefix ends at the last position that the encoder knows; the positions of its padding do not matter.
    positions = model.config.context_length - lengths[:, None] + torch.arange(N_STATES)
    positions = positions.clamp(max=model.config.context_length - 1)
    states = encoder(prefix, causal=False, positions=positions, padding=padding)
    expected = decoder(tokens, causal=True, states=states, states_padding=padding) @ symbols.T
    logits = model(tokens, prefix, lengths)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for each in (logits, expected):
        each.logsumexp(dim=-1).sum().backward()
    encoder.assert_gradients_of(model.encoder)
    decoder.assert_gradients_of(model.decoder)


@each_choice
@each_encoding
def test_a_hidden_cache_runs_the_decoder_over_states_followed_by_embeddings(
    encoding: str, choices: dict[str, Any]
) -> None:
    """Written out for prefixes without padding. Positions count from the first state here, since the encodings that
    use them in attention, rotary and ALiBi, depend only on differences."""
    model = model_of("hidden_cache", positional_encoding=encoding, **choices)
    prefix, tokens = prefix_and_tokens()
    embedded = model.decoder.embed(tokens, torch.arange(N_TOKENS))
    hidden = torch.cat((model.encode(prefix).states, embedded), dim=1)

    n_rows = N_STATES + N_TOKENS
    is_seen = torch.zeros(n_rows, n_rows, dtype=torch.bool)
    for query in range(n_rows):
        for key in range(n_rows):
            is_seen[query, key] = key < N_STATES or key <= query
    positions, positional_encoding = torch.arange(n_rows), model.decoder.positional_encoding
    bias, mask = positional_encoding.bias(positions, positions), is_seen
    if bias is not None:
        mask = bias.masked_fill(~is_seen, float("-inf"))[None]
    rotation = positional_encoding.rotation(positions)

    expected = model.output(
        model.decoder.run_blocks(hidden, {None: AttentionMask(tensor=mask)}, rotation)[:, N_STATES:]
    )
    torch.testing.assert_close(model(tokens, prefix), expected, rtol=1e-5, atol=1e-5)


@each_conditioning
def test_the_first_token_of_the_decoder_has_position_0_after_any_prefix(conditioning: str) -> None:
    model, embedded = model_of(conditioning), []
    model.decoder.positional_encoding.embedding.register_forward_hook(
        lambda module, inputs, output: embedded.append(inputs[0].tolist())
    )
    for length in (1, 5):
        model(random_tokens(1, 3), random_tokens(1, length))
    assert embedded == [[0, 1, 2]] * 2


@pytest.mark.parametrize("n_rows", [1, 3])
def test_states_of_a_hidden_cache_have_the_positions_right_before_the_first_token(n_rows: int) -> None:
    """ALiBi shows the distance of each state from the first token, for any lengths of prefix and padding."""
    model, masks = model_of("hidden_cache", positional_encoding="alibi", n_layers=1), []
    model.decoder.blocks[0].register_forward_pre_hook(lambda block, inputs: masks.append(inputs[1]))
    lengths = [4, 2, 1][:n_rows]
    model(random_tokens(n_rows, 2), random_tokens(n_rows, 4), torch.tensor(lengths))
    slope = 2 ** (-8 / TINY.n_heads)
    for row, length in enumerate(lengths):
        distances = masks[0].tensor[row, 0, 4] / -slope
        nothing = [float("inf")] * (4 - length)
        assert distances.tolist() == [*range(length, 0, -1), *nothing, 0, float("inf")]


# Lengths


@each_conditioning
@pytest.mark.parametrize("lengths", [[0, 3], [N_STATES, N_STATES + 1], [-2, 4]], ids=str)
def test_impossible_lengths_are_refused_in_one_line(conditioning: str, lengths: list[int]) -> None:
    prefix, tokens = prefix_and_tokens()
    with pytest.raises(ValueError, match=r"^lengths=.* must be at least 1 and at most the 5 tokens of a row$"):
        model_of(conditioning)(tokens, prefix, torch.tensor(lengths))


@each_conditioning
def test_learned_positions_limit_prefix_and_continuation_to_a_context_each(conditioning: str) -> None:
    model = model_of(conditioning)
    assert model(random_tokens(1, T), random_tokens(1, T)).shape == (1, T, V)
    for n_tokens, n_states in ((T + 1, 1), (1, T + 1)):
        with pytest.raises(ValueError, match=r"17 tokens is longer than the model's context_length=16"):
            model(random_tokens(1, n_tokens), random_tokens(1, n_states))


@each_conditioning
@pytest.mark.parametrize("encoding", sorted(POSITIONAL_ENCODINGS.keys() - BOUNDED_POSITIONS))
def test_the_other_encodings_work_past_the_context_of_training(encoding: str, conditioning: str) -> None:
    model = model_of(conditioning, positional_encoding=encoding)
    prefix, tokens = random_tokens(2, 40, seed=1), random_tokens(2, 35)
    logits = model(tokens, prefix)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, :T], model(tokens[:, :T], prefix))


# Weights


@pytest.mark.parametrize("tie_weights", [True, False])
@each_conditioning
def test_encoder_and_decoder_share_the_token_embedding(conditioning: str, tie_weights: bool) -> None:
    model = model_of(conditioning, tie_weights=tie_weights)
    assert model.encoder.token_embedding.weight is model.decoder.token_embedding.weight
    assert (model.output.weight is model.decoder.token_embedding.weight) is tie_weights
    model(torch.tensor([[1, 2]]), torch.tensor([[3, 4]])).logsumexp(dim=-1).sum().backward()
    gradient = model.decoder.token_embedding.weight.grad
    assert gradient is not None
    assert (gradient[1:5] != 0).any(dim=1).all()  # from the prefix and from what continues it
    assert bool((gradient[7] != 0).any()) is tie_weights  # from the output


@each_conditioning
def test_weights_stay_shared_when_others_are_loaded(conditioning: str) -> None:
    model = model_of(conditioning)
    other = EncoderDecoder(replace(TINY, family="encoder_decoder", conditioning=conditioning)).double()
    model.load_state_dict(other.state_dict())
    assert model.output.weight is model.encoder.token_embedding.weight is model.decoder.token_embedding.weight
    prefix, tokens = prefix_and_tokens()
    assert torch.equal(model(tokens, prefix), other.eval()(tokens, prefix))


NORM = 2 * D
ATTENTION = 4 * D**2 + 4 * D
BLOCK = ATTENTION + 8 * D**2 + 5 * D + 2 * NORM


@pytest.mark.parametrize(
    ("conditioning", "choices", "n_embeddings", "n_others"),
    [
        ("hidden_cache", {}, (V + 2 * T) * D, 2 * (N_LAYERS * BLOCK + NORM)),
        ("cross_attention", {}, (V + 2 * T) * D, 2 * (N_LAYERS * BLOCK + NORM) + N_LAYERS * (ATTENTION + NORM)),
        ("hidden_cache", {"tie_weights": False}, 2 * (V + T) * D, 2 * (N_LAYERS * BLOCK + NORM)),
        ("hidden_cache", {"positional_encoding": "rotary"}, V * D, 2 * (N_LAYERS * BLOCK + NORM)),
        (
            "cross_attention",
            {"positional_encoding": "alibi", "norm_position": "post", "qk_norm": True},
            V * D,
            N_LAYERS * (2 * BLOCK + ATTENTION + NORM + 3 * 2 * TINY.head_width),
        ),
    ],
    ids=str,
)
def test_parameters_are_counted_as_by_hand(
    conditioning: str, choices: dict[str, Any], n_embeddings: int, n_others: int
) -> None:
    model = model_of(conditioning, **choices)
    assert model.n_parameters == model.n_trainable_parameters == n_embeddings + n_others
    assert model.n_parameters_without_embeddings == n_others
    model.encoder.requires_grad_(False)
    n_frozen = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert model.n_trainable_parameters == model.n_parameters - n_frozen


@each_conditioning
def test_only_cross_attention_adds_a_sublayer_to_the_decoder(conditioning: str) -> None:
    model = model_of(conditioning)
    crossed: list[nn.Module | None] = [block.cross_attention for block in model.decoder.blocks]
    assert all(part is not None for part in crossed) is (conditioning == "cross_attention")
    assert all(block.cross_attention is None for block in model.encoder.blocks)
