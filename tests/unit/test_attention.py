"""Attention obeys its masks; attention maps show it and cost the forward pass nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CONDITIONINGS, OTHER_CHOICES, TINY, attention_map_of, build, lively, random_tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from folio.models import GPT, Encoder, EncoderDecoder, TransformerConfig, blocks
from folio.models.attention_maps import attention_map
from folio.models.blocks import CrossAttention, DotProductAttention, EncoderOutput, SelfAttention
from folio.models.masks import AttentionMask, causal_mask, combine_masks, padding_mask
from folio.models.positional import POSITIONAL_ENCODINGS, build_positional_encoding

D = TINY.d_model

each_encoding = pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
each_choice = pytest.mark.parametrize("choices", [{}, OTHER_CHOICES], ids=["defaults", "others"])

MASKS = {"nothing": (False, False), "causal": (True, False), "padding": (False, True), "both": (True, True)}


def random_heads(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rows(*lines: str) -> Tensor:
    """A mask drawn with characters: rows("x..", "xx.")."""
    return torch.tensor([[symbol == "x" for symbol in line] for line in lines])


# Masks


def test_a_causal_mask_allows_a_position_and_those_before_it() -> None:
    assert torch.equal(causal_mask(4, 4), rows("x...", "xx..", "xxx.", "xxxx"))


def test_a_causal_mask_puts_new_queries_at_the_end_of_the_keys() -> None:
    assert torch.equal(causal_mask(2, 5), rows("xxxx.", "xxxxx"))


def test_a_causal_mask_allows_the_prefix_to_every_query() -> None:
    assert torch.equal(causal_mask(4, 4, n_prefix=2), rows("xx..", "xx..", "xxx.", "xxxx"))


def test_a_padding_mask_hides_what_follows_the_tokens_of_a_row() -> None:
    assert torch.equal(padding_mask(torch.tensor([1, 4, 3]), 4), rows("x...", "xxxx", "xxx."))


@pytest.mark.parametrize("lengths", [[0, 2], [2, 5], [-1, 2]], ids=str)
def test_impossible_lengths_are_refused_in_one_line(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^lengths=.* must be at least 1 and at most the 4 tokens of a row$"):
        padding_mask(torch.tensor(lengths), 4)


def test_no_mask_combines_to_none() -> None:
    assert combine_masks() is None
    assert combine_masks(None, None) is None


@pytest.mark.parametrize("given_masks", MASKS.values(), ids=MASKS)
def test_attention_obeys_any_combination_of_masks(given_masks: tuple[bool, bool]) -> None:
    """Compared with a softmax over lists, key by key."""
    is_causal, is_padded = given_masks
    q, k, v = random_heads(3, 2, 1, 4, 8).unbind()
    lengths = [4, 2]
    mask = combine_masks(
        causal_mask(4, 4) if is_causal else None,
        padding_mask(torch.tensor(lengths), 4)[:, None, None, :] if is_padded else None,
    )
    mixed = DotProductAttention(dropout=0.0)(q, k, v, AttentionMask(tensor=mask))
    for row, length in enumerate(lengths):
        for t in range(4):
            seen = [s for s in range(4) if not (is_causal and s > t) and not (is_padded and s >= length)]
            powers = [math.exp(q[row, 0, t].dot(k[row, 0, s]).item() / math.sqrt(8)) for s in seen]
            expected = sum(power / sum(powers) * v[row, 0, s] for power, s in zip(powers, seen, strict=True))
            torch.testing.assert_close(mixed[row, 0, t], expected)


@given(data=st.data(), n_queries=st.integers(1, 4), n_keys=st.integers(1, 4))
def test_combined_masks_allow_what_all_of_them_allow_and_at_least_one_key(
    data: st.DataObject, n_queries: int, n_keys: int
) -> None:
    bits = st.lists(st.booleans(), min_size=n_queries * n_keys, max_size=n_queries * n_keys)
    first, second = (torch.tensor(data.draw(bits)).view(n_queries, n_keys) for _ in range(2))
    combined = combine_masks(first, None, second)
    for row in range(n_queries):
        both = first[row] & second[row]
        assert torch.equal(combined[row], both if both.any() else rows("x" + "." * (n_keys - 1))[0])


def test_a_row_with_every_key_masked_gives_no_nan_forward_or_backward() -> None:
    q, k, v = random_heads(3, 1, 1, 3, 4).requires_grad_().unbind()
    mask = AttentionMask(tensor=combine_masks(rows("...", "x..", "..."), rows("xxx", "xxx", "...")))
    mixed = DotProductAttention(dropout=0.0)(q, k, v, mask)
    weights = attention_map(q, k, mask).weights
    assert mixed.isfinite().all()
    assert weights.sum(dim=-1).tolist() == [[[1.0, 1.0, 1.0]]]
    for gradient in torch.autograd.grad((mixed.sum() + weights.square().sum()), (q, k, v)):
        assert gradient.isfinite().all()


@each_encoding
def test_padding_in_front_of_a_row_gives_no_nan_in_any_layer(encoding: str) -> None:
    """Causal and padding mask together leave no key to the first positions of a left-padded row."""
    model = build(GPT, positional_encoding=encoding)
    hidden = model.hidden(random_tokens(2, 6), torch.arange(6) >= torch.tensor([[5], [0]]))
    assert hidden.isfinite().all()
    hidden.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


# Attention maps


def test_scores_are_products_and_weights_are_their_softmax_over_the_allowed_keys() -> None:
    q, k = random_heads(2, 1, 2, 3, 4).unbind()
    scores, weights, mask = attention_map(q, k, AttentionMask(is_causal=True))
    assert torch.equal(mask, causal_mask(3, 3)[None, None])
    for head in range(2):
        for t in range(3):
            products = [q[0, head, t].dot(k[0, head, s]).item() for s in range(3)]
            assert scores[0, head, t].tolist() == pytest.approx(products)
            powers = [math.exp(product / 2) if s <= t else 0.0 for s, product in enumerate(products)]
            assert weights[0, head, t].tolist() == pytest.approx([power / sum(powers) for power in powers])


def test_alibi_is_in_the_weights_and_not_in_the_scores() -> None:
    q, k = random_heads(2, 1, 4, 3, 4).unbind()
    positions = torch.arange(3)
    bias = build_positional_encoding(replace(TINY, positional_encoding="alibi")).bias(positions, positions)
    scores, weights, _ = attention_map(q, k, AttentionMask.bidirectional(bias=bias))
    torch.testing.assert_close(scores, q @ k.transpose(-2, -1))
    torch.testing.assert_close(weights, (scores / 2 + bias).softmax(dim=-1))


def assert_causal_rows(weights: Tensor) -> None:
    """(B, H, T, T): rows sum to 1, the future is exactly 0, everything before it is positive."""
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    is_future = ~causal_mask(weights.size(2), weights.size(3))
    assert (weights[:, :, is_future] == 0).all()
    assert (weights[:, :, ~is_future] > 0).all()


@each_choice
@each_encoding
def test_weights_of_a_decoder_sum_to_1_and_are_0_for_the_future(encoding: str, choices: dict[str, Any]) -> None:
    maps = build(GPT, positional_encoding=encoding, **choices).attention_maps(random_tokens(2, 7))
    assert len(maps) == TINY.n_layers
    for scores, weights, _ in maps:
        assert scores.shape == weights.shape == (2, TINY.n_heads, 7, 7)
        assert scores.isfinite().all()
        assert_causal_rows(weights)


@each_encoding
def test_weights_of_an_encoder_sum_to_1_and_are_positive_everywhere(encoding: str) -> None:
    maps = build(Encoder, positional_encoding=encoding).attention_maps(random_tokens(2, 7))
    assert [tuple(weights.shape) for _, weights, _ in maps] == [(2, TINY.n_heads, 7, 7)] * TINY.n_layers
    for _, weights, _ in maps:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
        assert (weights > 0).all()


@each_encoding
def test_weights_of_cross_attention_are_positive_over_the_whole_prefix(encoding: str) -> None:
    model = build(EncoderDecoder, conditioning="cross_attention", positional_encoding=encoding)
    maps = model.attention_maps(random_tokens(2, 4), random_tokens(2, 6, seed=1))
    assert [tuple(weights.shape) for _, weights, _ in maps] == [(2, TINY.n_heads, 4, 6)] * TINY.n_layers
    for _, weights, _ in maps:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
        assert (weights > 0).all()


@each_encoding
def test_weights_over_a_hidden_cache_are_positive_over_the_prefix_and_0_for_the_future(encoding: str) -> None:
    model = build(EncoderDecoder, conditioning="hidden_cache", positional_encoding=encoding)
    maps = model.attention_maps(random_tokens(2, 4), random_tokens(2, 6, seed=1))
    assert [tuple(weights.shape) for _, weights, _ in maps] == [(2, TINY.n_heads, 4, 6 + 4)] * TINY.n_layers
    for _, weights, _ in maps:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
        is_seen = torch.cat((torch.ones(4, 6, dtype=torch.bool), causal_mask(4, 4)), dim=1)
        assert (weights[:, :, ~is_seen] == 0).all()
        assert (weights[:, :, is_seen] > 0).all()


def values_of(projected: Tensor, config: TransformerConfig) -> Tensor:
    """Return the values (B, H, S, K) at the end of a fused projection, one for each head of queries."""
    width = config.key_value_heads * config.head_width
    values = blocks.split_heads(projected[..., -width:], config.head_width)
    return values.repeat_interleave(config.n_heads // config.key_value_heads, dim=1)


@each_choice
def test_a_layer_mixes_its_values_by_the_weights_of_its_map(choices: dict[str, Any]) -> None:
    config = replace(TINY, **choices)
    layer, hidden = lively(SelfAttention(config)), random_heads(2, 5, D)
    mask = AttentionMask(is_causal=True)
    values = values_of(layer.qkv_projection(hidden), config)
    mixed = blocks.merge_heads(attention_map_of(layer, hidden, mask).weights @ values)
    torch.testing.assert_close(layer(hidden, mask), layer.out_projection(mixed))


@each_choice
def test_a_cross_attention_layer_mixes_its_values_by_the_weights_of_its_map(choices: dict[str, Any]) -> None:
    config = replace(TINY, **choices)
    layer, hidden = lively(CrossAttention(config)), random_heads(2, 5, D)
    encoder_output = EncoderOutput(random_heads(2, 3, D, seed=1), padding_mask(torch.tensor([3, 1]), 3))
    values = values_of(layer.kv_projection(encoder_output.states), config)
    weights = attention_map_of(layer, hidden, encoder_output).weights
    assert (weights[1, :, :, 1:] == 0).all()
    mixed = layer.out_projection(blocks.merge_heads(weights @ values))
    torch.testing.assert_close(layer(hidden, encoder_output), mixed)


def every_output(encoding: str, choices: dict[str, Any]) -> list[Tensor]:
    """Return the outputs of all families, with and without padding."""
    options = {"positional_encoding": encoding, "n_layers": 2, **choices}
    tokens, prefix, lengths = random_tokens(2, 5), random_tokens(2, 4, seed=1), torch.tensor([4, 2])
    decoder = build(GPT, **options)
    outputs = [decoder(tokens), decoder.hidden(tokens, torch.arange(5) >= torch.tensor([[0], [3]]))]
    encoder = build(Encoder, **options)
    outputs += [encoder(tokens), encoder(prefix, lengths)]
    for conditioning in CONDITIONINGS:
        both = build(EncoderDecoder, conditioning=conditioning, **options)
        outputs += [both(tokens, prefix), both(tokens, prefix, lengths)]
    return outputs


@each_choice
@each_encoding
def test_whole_models_give_the_same_with_weights_times_values(
    encoding: str, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = every_output(encoding, choices)

    def slow(self: DotProductAttention, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        return attention_map(q, k, mask).weights @ v.repeat_interleave(q.size(1) // v.size(1), dim=1)

    monkeypatch.setattr(DotProductAttention, "forward", slow)
    torch.testing.assert_close(every_output(encoding, choices), fast)


@torch.no_grad()
def test_a_compiled_model_has_the_same_attention_maps() -> None:
    """Compiled blocks ignore the hooks that record attention."""
    model, tokens = build(GPT, n_layers=2), random_tokens(1, 5)
    expected = model.attention_maps(tokens)
    for block in model.blocks:
        block.compile(backend="eager")
    model(tokens)
    torch.testing.assert_close(model.attention_maps(tokens), expected)


class SoftmaxIsForbidden(TorchDispatchMode):
    """Fails on a softmax among the operations that reach torch's kernels."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "softmax" not in str(func), "attention weights were built"
        return func(*args, **(kwargs or {}))


@each_encoding
def test_the_fast_path_never_builds_weights(encoding: str) -> None:
    with SoftmaxIsForbidden():
        every_output(encoding, {})


def test_the_check_of_the_fast_path_notices_a_softmax() -> None:
    with pytest.raises(AssertionError, match="weights were built"), SoftmaxIsForbidden():
        build(GPT).attention_maps(random_tokens(1, 3))


# Why scores are scaled


def test_products_of_512_terms_have_variance_512_and_scaled_ones_1() -> None:
    q, k = (random_heads(1, 1, 256, 512, seed=seed) for seed in (0, 1))
    scores, weights, _ = attention_map(q, k, AttentionMask())
    assert q.var().item() == pytest.approx(1, rel=0.02)
    assert scores.var().item() == pytest.approx(512, rel=0.05)
    # A softmax only shifts the scaled scores of a row.
    assert weights.log().var(dim=-1).mean().item() == pytest.approx(1, rel=0.05)


def test_unscaled_products_would_select_one_key_and_give_the_others_no_gradient() -> None:
    q, k = (random_heads(1, 1, 256, 512, seed=seed) for seed in (0, 1))
    scores, weights, _ = attention_map(q, k, AttentionMask())
    unscaled = scores.softmax(dim=-1)
    assert unscaled.amax(dim=-1).mean() > 0.8
    assert weights.amax(dim=-1).mean() < 0.1
    # The derivative of a weight by its own score is w (1 - w).
    assert (unscaled * (1 - unscaled)).sum(dim=-1).mean() < 0.25
    assert (weights * (1 - weights)).sum(dim=-1).mean() > 0.95


# Query-key normalization


def enlarge(layer: SelfAttention | CrossAttention, part: str) -> None:
    """Make the queries or keys of a layer ten times as long."""
    if isinstance(layer, SelfAttention):
        projection, rows_of_part = layer.qkv_projection, slice(0, D) if part == "queries" else slice(D, 2 * D)
    else:
        projection, rows_of_part = layer.q_projection if part == "queries" else layer.kv_projection, slice(0, D)
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter[rows_of_part] *= 10


@pytest.mark.parametrize("part", ["queries", "keys"])
@pytest.mark.parametrize("kind", [SelfAttention, CrossAttention])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_with_qk_norm_the_length_of_queries_and_keys_does_not_matter(qk_norm: bool, kind: type, part: str) -> None:
    layer, hidden = lively(kind(replace(TINY, qk_norm=qk_norm))), random_heads(2, 5, D)
    states = random_heads(2, 3, D, seed=1)
    second_input = AttentionMask(is_causal=True) if kind is SelfAttention else EncoderOutput(states, None)
    before = attention_map_of(layer, hidden, second_input).weights
    enlarge(layer, part)
    assert torch.allclose(before, attention_map_of(layer, hidden, second_input).weights, rtol=1e-3) is qk_norm


def test_qk_norm_is_an_rms_norm_of_each_head_before_the_rotation() -> None:
    layer, hidden = lively(SelfAttention(replace(TINY, qk_norm=True))), random_heads(1, 5, D)
    rotation = build_positional_encoding(replace(TINY, positional_encoding="rotary")).rotation(torch.arange(5))
    assert layer.q_norm.weight.shape == layer.k_norm.weight.shape == (TINY.head_width,)
    q, k, _ = (blocks.split_heads(part, TINY.head_width) for part in layer.qkv_projection(hidden).chunk(3, dim=-1))
    q, k = (part / (part.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() for part in (q, k))
    q, k = blocks.rotate(q * layer.q_norm.weight, rotation), blocks.rotate(k * layer.k_norm.weight, rotation)
    scores = attention_map_of(layer, hidden, AttentionMask(), rotation).scores
    torch.testing.assert_close(scores, q @ k.transpose(-2, -1))


# Attention masks of whole models


def test_a_mask_without_padding_or_bias_is_left_to_the_kernel() -> None:
    """This makes training fast: the kernel would read a mask of T x T numbers, but not a flag."""
    cpu = torch.device("cpu")
    assert AttentionMask.causal(5, 5, cpu) == AttentionMask(is_causal=True)
    assert AttentionMask.causal(1, 5, cpu) == AttentionMask.causal(1, 5, cpu, n_prefix=3) == AttentionMask()
    assert AttentionMask.bidirectional() == AttentionMask()


def test_new_tokens_attend_to_the_cache_and_to_those_before_them() -> None:
    assert torch.equal(AttentionMask.causal(2, 4, torch.device("cpu")).tensor, rows("xxx.", "xxxx"))


def test_a_bias_is_minus_infinity_for_a_masked_key() -> None:
    bias = torch.arange(9.0).view(1, 3, 3)
    mask = AttentionMask.causal(3, 3, torch.device("cpu"), key_mask=rows(".xx"), bias=bias).tensor
    hidden = -math.inf
    # The first row may attend to nothing, so it gets its first key.
    assert mask.tolist() == [[[[0.0, hidden, hidden], [hidden, 4.0, hidden], [hidden, 7.0, 8.0]]]]
