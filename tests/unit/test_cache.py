"""A model with a cache reads each token once and gives the same logits as without."""

from functools import cache as memoized
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CONDITIONINGS, OTHER_CHOICES, build, random_tokens
from torch import Tensor

from folio.models import GPT, EncoderDecoder
from folio.models.cache import KeyValueCache, LayerCache
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.models.transformer_config import BOUNDED_POSITIONS

FAMILIES = ("decoder", *CONDITIONINGS)
CHOICES: dict[str, dict[str, Any]] = {"defaults": {}, "others": OTHER_CHOICES}
N_STATES = 4

each_family = pytest.mark.parametrize("family", FAMILIES)
each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
each_choice = pytest.mark.parametrize("choices", CHOICES)

chunks_of_a_sequence = st.lists(st.integers(1, 5), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) <= 16)


@memoized
def model_of(family: str, encoding: str, choices: str = "defaults") -> GPT | EncoderDecoder:
    options = {"positional_encoding": encoding, "n_layers": 2, **CHOICES[choices]}
    return build(GPT, **options) if family == "decoder" else build(EncoderDecoder, conditioning=family, **options)


@torch.no_grad()
def read(
    model: GPT | EncoderDecoder,
    tokens: Tensor,
    sizes: list[int],
    prefix: Tensor,
    lengths: Tensor | None = None,
    padding_mask: Tensor | None = None,
) -> Tensor:
    """Read tokens (B, T) in chunks of these sizes with one cache: -> (B, T, V)."""
    cache = KeyValueCache(model.config.n_layers, capacity=N_STATES + tokens.size(1))
    encoder_output = model.encode(prefix, lengths) if isinstance(model, EncoderDecoder) else None
    outputs: list[Tensor] = []
    n_read = 0
    for chunk in tokens.split(sizes, dim=1):
        n_read += chunk.size(1)
        options = {"cache": cache, "padding_mask": None if padding_mask is None else padding_mask[:, :n_read]}
        if isinstance(model, EncoderDecoder):
            outputs.append(model.decode(chunk, encoder_output, **options))
        else:
            outputs.append(model.hidden(chunk, **options))
    return model.output(torch.cat(outputs, dim=1))


@torch.no_grad()
def read_at_once(model: GPT | EncoderDecoder, tokens: Tensor, prefix: Tensor) -> Tensor:
    return model(tokens, prefix) if isinstance(model, EncoderDecoder) else model(tokens)


@each_choice
@each_encoding
@each_family
@settings(max_examples=10)  # of each of 30 models
@given(sizes=chunks_of_a_sequence)
def test_a_sequence_in_any_chunks_has_the_logits_of_the_whole(
    family: str, encoding: str, choices: str, sizes: list[int]
) -> None:
    model, tokens, prefix = (
        model_of(family, encoding, choices),
        random_tokens(2, sum(sizes)),
        random_tokens(2, N_STATES),
    )
    torch.testing.assert_close(read(model, tokens, sizes, prefix), read_at_once(model, tokens, prefix))


@each_choice
@each_encoding
@each_family
@settings(max_examples=10)  # of each of 30 models
@given(sizes=chunks_of_a_sequence, data=st.data())
def test_rows_of_any_lengths_in_any_chunks_have_the_logits_of_each_alone(
    family: str, encoding: str, choices: str, sizes: list[int], data: st.DataObject
) -> None:
    """Prompts are padded at the start and prefixes at the end."""
    model, n_tokens = model_of(family, encoding, choices), sum(sizes)
    tokens, prefix = random_tokens(3, n_tokens), random_tokens(3, N_STATES, seed=1)
    n_padding = data.draw(st.lists(st.integers(0, n_tokens - 1), min_size=3, max_size=3))
    lengths = data.draw(st.lists(st.integers(1, N_STATES), min_size=3, max_size=3))
    padding_mask = torch.arange(n_tokens) >= torch.tensor(n_padding)[:, None]
    together = read(model, tokens, sizes, prefix, torch.tensor(lengths), padding_mask)
    assert together.isfinite().all()
    for row in range(3):
        alone = read_at_once(model, tokens[row : row + 1, n_padding[row] :], prefix[row : row + 1, : lengths[row]])
        torch.testing.assert_close(together[row, n_padding[row] :], alone[0])


@each_family
@pytest.mark.parametrize("encoding", sorted(POSITIONAL_ENCODINGS.keys() - BOUNDED_POSITIONS))
def test_a_cache_grows_past_the_context_of_training(family: str, encoding: str) -> None:
    model, tokens, prefix = model_of(family, encoding), random_tokens(1, 40), random_tokens(1, N_STATES)
    logits = read(model, tokens, [14, *[1] * 8, 10, 8], prefix)
    torch.testing.assert_close(logits, read_at_once(model, tokens, prefix))


@each_family
def test_learned_positions_refuse_to_continue_past_their_end(family: str) -> None:
    model, prefix = model_of(family, "learned"), random_tokens(1, N_STATES)
    with pytest.raises(ValueError, match=r"17 tokens is longer than the model's context_length=16"):
        read(model, random_tokens(1, 17), [16, 1], prefix)


@each_family
def test_with_a_cache_the_blocks_read_only_new_tokens(family: str) -> None:
    model, n_read = model_of(family, "rotary"), []
    stack = model.decoder if isinstance(model, EncoderDecoder) else model
    hook = stack.blocks[0].register_forward_hook(lambda block, inputs, output: n_read.append(output.size(1)))
    read(model, random_tokens(2, 9), [5, 1, 3], random_tokens(2, N_STATES))
    hook.remove()
    n_states = N_STATES if family == "hidden_cache" else 0  # which are read with the first tokens
    assert n_read == [n_states + 5, 1, 3]


def test_with_a_cache_cross_attention_projects_the_encoders_states_once() -> None:
    model, calls = model_of("cross_attention", "learned"), []
    hooks = [
        block.cross_attention.kv_projection.register_forward_hook(lambda *_: calls.append(1))
        for block in model.decoder.blocks
    ]
    read(model, random_tokens(2, 6), [2, 1, 1, 2], random_tokens(2, N_STATES))
    for hook in hooks:
        hook.remove()
    assert len(calls) == model.config.n_layers


@each_family
def test_a_cache_counts_the_positions_that_it_holds(family: str) -> None:
    model, cache = model_of(family, "alibi"), KeyValueCache(2, capacity=12)
    assert cache.n_keys == 0
    if isinstance(model, EncoderDecoder):
        encoder_output = model.encode(random_tokens(1, N_STATES))
        model.decode(random_tokens(1, 5), encoder_output, cache=cache)
        model.decode(random_tokens(1, 1), encoder_output, cache=cache)
    else:
        model.hidden(random_tokens(1, 5), cache=cache)
        model.hidden(random_tokens(1, 1), cache=cache)
    assert cache.n_keys == 6 + (N_STATES if family == "hidden_cache" else 0)


def test_two_caches_of_one_model_are_independent() -> None:
    model, tokens = model_of("decoder", "learned"), random_tokens(2, 6)
    first, second = KeyValueCache(2, capacity=6), KeyValueCache(2, capacity=6)
    model.hidden(tokens[:, :5], cache=first)
    model.hidden(tokens[:, :5].flip(1), cache=second)
    torch.testing.assert_close(model.hidden(tokens[:, 5:], cache=first)[:, 0], model.hidden(tokens)[:, -1])


def test_a_layer_cache_returns_everything_that_was_appended() -> None:
    keys, values = torch.randn(2, 1, 2, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    cache = LayerCache(capacity=5)
    for start, end in ((0, 2), (2, 3), (3, 5)):
        all_keys, all_values = cache.append(keys[:, :, start:end], values[:, :, start:end])
        assert torch.equal(all_keys, keys[:, :, :end])
        assert torch.equal(all_values, values[:, :, :end])
        assert cache.n_keys == end


def test_a_full_cache_takes_no_more() -> None:
    cache, keys = LayerCache(capacity=3), torch.zeros(1, 1, 2, 4)
    cache.append(keys, keys)
    with pytest.raises(AssertionError):
        cache.append(keys, keys)


def test_each_layer_caches_its_own_keys() -> None:
    model, cache = model_of("decoder", "learned"), KeyValueCache(2, capacity=4)
    model.hidden(random_tokens(1, 4), cache=cache)
    assert [layer.n_keys for layer in cache.layers] == [4, 4]
    first, second = (layer.append(*torch.zeros(2, 1, 4, 0, 8, dtype=torch.float64))[0] for layer in cache.layers)
    assert not torch.isclose(first, second).all()
