"""Grouped queries, windows, softcaps, wide heads and rotary variants, each against plain code written differently."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build, random_tokens
from torch import Tensor

from folio.models import GPT, Encoder, EncoderDecoder
from folio.models.attention_maps import record_attention
from folio.models.blocks import SelfAttention
from folio.models.cache import KeyValueCache, LayerCache
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.models.rotary_scaling import RotaryScaling

YARN = RotaryScaling(name="yarn", factor=4.0, original_context_length=16)
LLAMA3 = RotaryScaling(name="llama3", factor=8.0, original_context_length=64)

OPTIONS: dict[str, dict[str, Any]] = {
    "wide heads": {"d_head": 12},
    "grouped queries": {"n_kv_heads": 2},
    "one head of keys": {"n_kv_heads": 1, "d_head": 6, "qk_norm": True},
    "window": {"attention_window": 5},
    "pattern": {"attention_window": "SSL:3"},
    "softcap": {"logit_softcap": 2.0},
    "all": {"d_head": 6, "n_kv_heads": 2, "attention_window": "SL:4", "logit_softcap": 3.0, "qk_norm": True},
}
ROTARY: dict[str, dict[str, Any]] = {
    "partial": {"rotary_fraction": 0.5},
    "llama3": {"rotary_scaling": LLAMA3},
    "yarn": {"rotary_scaling": YARN, "rotary_fraction": 0.75},
}


# The whole decoder, by loops over single queries


def slow_logits(model: GPT, tokens: list[int]) -> Tensor:
    """Return the logits (T, V) of one text, by one query, head and layer after the other.

    Only for pre-norm decoders without biases whose positions are rotary, alibi or none.
    """
    config, weights = model.config, dict(model.named_parameters())
    width = config.d_head or config.d_model // config.n_heads
    per_group = config.n_heads // (config.n_kv_heads or config.n_heads)
    stream = [weights["token_embedding.weight"][token] for token in tokens]

    def norm(vector: Tensor, name: str) -> Tensor:
        if config.norm == "rms_norm" or "attention.q_norm" in name or "attention.k_norm" in name:
            return vector / (vector.square().mean() + config.norm_eps).sqrt() * weights[f"{name}.weight"]
        centred = vector - vector.mean()
        return centred / (centred.square().mean() + config.norm_eps).sqrt() * weights[f"{name}.weight"]

    def rotated(vector: Tensor, position: int) -> Tensor:
        """As complex numbers: a pair is one of them."""
        if config.positional_encoding != "rotary":
            return vector
        n_rotated = round(width * config.rotary_fraction)
        pairs = torch.complex(vector[: n_rotated // 2], vector[n_rotated // 2 : n_rotated])
        speeds = [config.positional_base ** (-2 * i / n_rotated) for i in range(n_rotated // 2)]
        if config.rotary_scaling is not None:
            divisors = config.rotary_scaling.divisors(n_rotated, config.positional_base)
            speeds = [1 / divisor for divisor in divisors]
        turn = torch.polar(torch.ones(len(speeds)).double(), position * torch.tensor(speeds).double())
        pairs = pairs * turn * (config.rotary_scaling.amplitude if config.rotary_scaling else 1.0)
        return torch.cat((pairs.real, pairs.imag, vector[n_rotated:]))

    for layer, window in enumerate(config.layer_windows):
        name = f"blocks.{layer}"
        queries, keys, values = [], [], []
        for position, vector in enumerate(stream):
            heads = (weights[f"{name}.attention.qkv_projection.weight"] @ norm(vector, f"{name}.attention_norm")).split(
                width
            )
            n_kv = config.n_heads // per_group
            q, k, v = heads[: config.n_heads], heads[config.n_heads : config.n_heads + n_kv], heads[-n_kv:]
            if config.qk_norm:
                q = [norm(head, f"{name}.attention.q_norm") for head in q]
                k = [norm(head, f"{name}.attention.k_norm") for head in k]
            queries.append([rotated(head, position) for head in q])
            keys.append([rotated(head, position) for head in k])
            values.append(v)
        for t in range(len(tokens)):
            first = 0 if window is None else max(0, t - window + 1)
            mixed = []
            for head in range(config.n_heads):
                group = head // per_group
                scores = torch.stack([queries[t][head] @ keys[s][group] for s in range(first, t + 1)]) / width**0.5
                if config.positional_encoding == "alibi":
                    slope = 2.0 ** (-8 * (head + 1) / config.n_heads)
                    scores = scores - slope * torch.arange(t - first, -1, -1)
                shares = scores.softmax(dim=0)
                mixed.append(sum(share * values[first + i][group] for i, share in enumerate(shares)))
            stream[t] = stream[t] + weights[f"{name}.attention.out_projection.weight"] @ torch.cat(mixed)
        for t in range(len(tokens)):
            inner = weights[f"{name}.feed_forward.in_projection.weight"] @ norm(stream[t], f"{name}.feed_forward_norm")
            stream[t] = stream[t] + weights[f"{name}.feed_forward.out_projection.weight"] @ F.gelu(
                inner, approximate="tanh"
            )
    logits = torch.stack([model.output.weight @ norm(vector, "final_norm") for vector in stream])
    cap = config.logit_softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("encoding", ["rotary", "alibi", "none"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_decoder_computes_what_loops_over_single_queries_do(option: str, encoding: str) -> None:
    model = build(GPT, positional_encoding=encoding, bias=False, norm_eps=1e-6, **OPTIONS[option])
    tokens = random_tokens(1, 11)
    torch.testing.assert_close(model(tokens)[0], slow_logits(model, tokens[0].tolist()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("option", ROTARY)
def test_a_rotary_decoder_computes_what_complex_numbers_do(option: str) -> None:
    model = build(GPT, positional_encoding="rotary", bias=False, **ROTARY[option])
    tokens = random_tokens(1, 11)
    torch.testing.assert_close(model(tokens)[0], slow_logits(model, tokens[0].tolist()), rtol=1e-6, atol=1e-6)


# With a cache and padding


def stepwise(model: GPT, tokens: Tensor, chunks: list[int], padding_mask: Tensor | None, bounded: bool) -> Tensor:
    """Return the logits (B, T, V) of tokens that enter in chunks, through a cache."""
    windows = model.config.layer_windows if bounded else None
    cache = KeyValueCache(model.config.n_layers, tokens.size(1), windows)
    outputs, end = [], 0
    for chunk in chunks:
        start, end = end, end + chunk
        mask = None if padding_mask is None else padding_mask[:, :end]
        outputs.append(model.hidden(tokens[:, start:end], mask, cache=cache))
    return model.output(torch.cat(outputs, dim=1))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_cache_gives_the_logits_of_the_whole_text_however_it_is_cut_and_padded(data: st.DataObject) -> None:
    option = OPTIONS[data.draw(st.sampled_from(sorted(OPTIONS)))]
    encoding = data.draw(st.sampled_from(sorted(POSITIONAL_ENCODINGS)))
    bounded = data.draw(st.booleans())
    model = build(GPT, positional_encoding=encoding, context_length=16, **option)
    chunks = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) <= 16))
    n_tokens = sum(chunks)
    tokens = random_tokens(3, n_tokens)
    padding = [data.draw(st.integers(0, n_tokens - 1)) for _ in range(3)]
    at_start = bounded or data.draw(st.booleans())  # a bounded cache is for padding at the start
    columns = torch.arange(n_tokens)
    is_token = torch.stack([columns >= n if at_start else columns < n_tokens - n for n in padding])
    logits = stepwise(model, tokens, chunks, is_token, bounded)
    for row in range(3):
        alone = model(tokens[row][is_token[row]][None])[0]
        torch.testing.assert_close(logits[row][is_token[row]], alone, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model(tokens, is_token)[row][is_token[row]], alone, rtol=1e-6, atol=1e-6)


def test_a_window_bounds_the_memory_of_a_cache_and_fewer_heads_of_keys_divide_it() -> None:
    model = build(GPT, positional_encoding="rotary", n_kv_heads=1, attention_window=4, context_length=200)
    cache = KeyValueCache(model.config.n_layers, 200, model.config.layer_windows)
    for chunk in random_tokens(1, 200).split(7, dim=1):
        model.hidden(chunk, cache=cache)
    assert cache.n_keys == 200
    for layer in cache.layers:
        assert layer._keys is not None
        assert layer._keys.shape == (1, 1, 5, model.config.head_width)


@pytest.mark.parametrize("window", [1, 2, 3, 8])
def test_a_bounded_cache_returns_the_newest_keys_in_order(window: int) -> None:
    cache, n_read = LayerCache(capacity=1000, window=window), 0
    for n_new in [1, 1, 5, 1, 12, 1, 1, 1, 1, 1, 3, 2, 1, 1]:
        new = torch.arange(n_read, n_read + n_new).double().view(1, 1, n_new, 1)
        keys, values = cache.append(new, -new)
        n_read += n_new
        expected = list(range(max(0, n_read - n_new - window + 1), n_read))
        assert keys.flatten().tolist() == expected
        assert values.flatten().tolist() == [-key for key in expected]


# Other families


def test_a_window_of_an_encoder_reaches_to_both_sides() -> None:
    model = build(Encoder, positional_encoding="alibi", attention_window=3, n_kv_heads=2)
    (first, *_) = model.attention_maps(random_tokens(2, 9))
    distances = (torch.arange(9)[:, None] - torch.arange(9)).abs()
    assert torch.equal(first.mask, (distances < 3).expand(2, 1, 9, 9))
    lengths, tokens = torch.tensor([9, 5]), random_tokens(2, 9)
    torch.testing.assert_close(model(tokens, lengths)[1, :5], model(tokens[1:, :5])[0])


def test_cross_attention_reads_all_states_by_grouped_queries() -> None:
    options: dict[str, Any] = {"n_kv_heads": 2, "d_head": 6, "attention_window": 3, "logit_softcap": 2.0}
    model = build(EncoderDecoder, conditioning="cross_attention", **options)
    tokens, prefix = random_tokens(2, 6), random_tokens(2, 8, seed=1)
    maps = model.attention_maps(tokens, prefix)
    assert all(layer.weights.shape == (2, 4, 6, 8) and layer.mask.all() for layer in maps)
    with record_attention(model.decoder, SelfAttention) as own:
        logits = model(tokens, prefix)
    assert own[0].mask[0, 0].sum(dim=1).tolist() == [1, 2, 3, 3, 3, 3]
    cache = KeyValueCache(3, 6, model.config.layer_windows)
    output = model.encode(prefix)
    steps = [model.decode(tokens[:, t : t + 1], output, cache=cache) for t in range(6)]
    torch.testing.assert_close(model.output(torch.cat(steps, dim=1)), logits)
