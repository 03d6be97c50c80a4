"""Grouped queries, windows, softcaps, wide heads and rotary variants, each against plain code written differently."""

import math
import re
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TINY, build, random_tokens
from torch import Tensor

from folio.models import GPT, Encoder, EncoderDecoder, TransformerConfig
from folio.models.attention_maps import record_attention
from folio.models.blocks import DotProductAttention, SelfAttention
from folio.models.cache import KeyValueCache, LayerCache
from folio.models.decoding import DecodingBatch
from folio.models.masks import AttentionMask, near_mask
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


# Generation


def test_a_model_of_windows_alone_continues_past_its_context_as_a_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache is bounded, so nothing is dropped or read again."""
    model = build(GPT, positional_encoding="rotary", attention_window=5, n_kv_heads=2)
    prompts = random_tokens(2, 20)  # longer than the context of 16
    is_token = torch.ones(2, 20, dtype=torch.bool)
    is_token[1, :7] = False
    n_read: list[int] = []
    hidden = GPT.hidden

    def record(self: GPT, tokens: Tensor, *args: Any, **options: Any) -> Tensor:
        n_read.append(tokens.size(1))
        return hidden(self, tokens, *args, **options)

    monkeypatch.setattr(GPT, "hidden", record)
    texts = model.generate(prompts, 30, temperature=0.0, padding_mask=is_token)
    assert n_read == [16, 4] + 29 * [1]
    monkeypatch.undo()
    for text, n_prompt in ((texts[0], 20), (texts[1][7:], 13)):
        assert torch.equal(text[n_prompt:], model(text[None])[0, n_prompt - 1 : -1].argmax(dim=-1))


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("pattern", [5, "SL:5"])
def test_a_text_is_the_same_without_a_cache(pattern: int | str, window: int | None) -> None:
    model = build(GPT, positional_encoding="alibi", attention_window=pattern, n_kv_heads=1)
    texts = []
    for use_cache in (True, False):
        batch = DecodingBatch(model, [[1, 2, 3], [4] * 10], None, window, n_new=40, use_cache=use_cache)
        texts.append([])
        for _ in range(40):
            texts[-1].append(batch.next_logits().argmax(dim=1).tolist())
            batch.append(texts[-1][-1])
    assert texts[0] == texts[1]


# Training


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by the compiler
def test_checkpointing_and_compiling_change_no_gradient() -> None:
    model = GPT(replace(TINY, positional_encoding="rotary", **OPTIONS["all"]))
    tokens, gradients = random_tokens(2, 16), []
    for variant in ("plain", "checkpointed", "compiled"):
        for block in model.blocks:
            block.activation_checkpointing = variant == "checkpointed"
            if variant == "compiled":
                block.compile(backend="eager", fullgraph=True)
        model.zero_grad()
        model(tokens).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[2])


def test_grouped_queries_keep_the_fused_kernel_and_so_does_a_window() -> None:
    q, k = torch.zeros(1, 4, 16, 8), torch.zeros(1, 2, 16, 8)
    math_kernel = 0
    mask = near_mask(torch.arange(16), torch.arange(16), 3)
    assert torch._fused_sdp_choice(q, k, k, is_causal=True, enable_gqa=True) != math_kernel
    assert torch._fused_sdp_choice(q, k, k, attn_mask=mask, enable_gqa=True) != math_kernel


@pytest.mark.parametrize(
    ("dtype", "is_masked", "n_key_heads"),
    [(torch.bfloat16, False, 2), (torch.bfloat16, True, 4), (torch.float32, False, 4)],
)
def test_a_gpu_gets_groups_only_where_its_fused_kernel_knows_them(
    dtype: torch.dtype, is_masked: bool, n_key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, which is no CPU either."""
    attend, seen = F.scaled_dot_product_attention, []

    def record(q: Tensor, k: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(k.size(1))
        return attend(q, k, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    q, k = (torch.empty(1, heads, 16, 8, dtype=dtype, device="meta") for heads in (4, 2))
    near = near_mask(torch.arange(16), torch.arange(16), 3)
    assert near is not None
    mask = AttentionMask(tensor=near.to("meta")) if is_masked else AttentionMask(is_causal=True)
    assert DotProductAttention(dropout=0.0)(q, k, k, mask).shape == q.shape
    assert seen == [n_key_heads]


def test_a_softcap_bounds_the_logits_in_mixed_precision_too() -> None:
    model = GPT(replace(TINY, logit_softcap=2.0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.output.weight *= 100
        logits = model(random_tokens(2, 8))
    assert logits.dtype == torch.float32
    assert 1.5 < logits.abs().max() <= 2.0


@pytest.mark.parametrize("scaling", [None, YARN, LLAMA3])
def test_a_checkpoint_gives_back_the_config(scaling: RotaryScaling | None) -> None:
    config = replace(TINY, positional_encoding="rotary", rotary_scaling=scaling, **OPTIONS["all"])
    assert TransformerConfig.from_dict(asdict(config)) == config


# Refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_head": 0}, "d_head=0 must be 1 or more"),
        ({"n_kv_heads": 0}, "n_kv_heads=0 must be 1 or more"),
        ({"n_kv_heads": 3}, "n_kv_heads=3 must divide n_heads=4; the nearest that works is n_kv_heads="),
        ({"n_kv_heads": 8}, "n_kv_heads=8 must divide n_heads=4; the nearest that works is n_kv_heads=4"),
        ({"norm_eps": 0.0}, "norm_eps=0.0 must be above 0"),
        ({"norm_eps": math.nan}, "norm_eps=nan must be above 0"),
        ({"logit_softcap": 0.0}, "logit_softcap=0.0 must be above 0; 15 and 30 are usual"),
        ({"logit_softcap": math.inf}, "logit_softcap=inf must be above 0"),
        ({"attention_window": 0}, "attention_window=0 must be 1 or more"),
        ({"attention_window": -4}, "attention_window=-4 must be 1 or more"),
        ({"attention_window": "S:0"}, "attention_window=S:0 must be 1 or more"),
        ({"attention_window": "SSX"}, "attention_window=SSX must be a number of positions, or a letter for each layer"),
        ({"attention_window": "ssl"}, "attention_window=ssl must be a number of positions, or a letter for each layer"),
        ({"attention_window": ""}, "attention_window= must be a number of positions"),
        ({"attention_window": "64"}, "attention_window=64 must be a number of positions"),
        ({"attention_window": "SSSL"}, "attention_window=SSSL has 4 letters, but the model has n_layers=3 layers"),
        ({"attention_window": "LL"}, "attention_window=LL has no S, so no layer has a window; leave it out"),
        (
            {"attention_window": 4, "family": "encoder_decoder", "conditioning": "hidden_cache"},
            "attention_window=4 does not fit conditioning=hidden_cache",
        ),
        ({"rotary_fraction": 0.5}, "rotary_fraction=0.5 has no effect with positional_encoding=learned"),
        ({"rotary_scaling": YARN}, "rotary_scaling=yarn has no effect with positional_encoding=learned"),
        ({"positional_encoding": "rotary", "d_head": 5}, "d_head=5: positional_encoding=rotary rotates dimensions in"),
        ({"positional_encoding": "rotary", "rotary_fraction": 0.0}, "rotary_fraction=0.0 must be above 0"),
        (
            {"positional_encoding": "rotary", "rotary_fraction": 1.5},
            "rotary_fraction=1.5 must be above 0 and at",
        ),
        (
            {"positional_encoding": "rotary", "rotary_fraction": 0.4},
            "rotary_fraction=0.4 would rotate 3.2 of the 8 dimensions of a head",
        ),
        (
            {"positional_encoding": "rotary", "rotary_fraction": 0.1},
            "rotary_fraction=0.1 would rotate 0.8 of the 8 dimensions of a head, and positional_encoding=rotary "
            "rotates dimensions in pairs, so their number must be even; try rotary_fraction=0.25",
        ),
    ],
    ids=str,
)
def test_an_impossible_option_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        replace(TINY, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "ntk"}, "rotary_scaling.name=ntk is not one of llama3, yarn"),
        ({"factor": 0.5}, "rotary_scaling.factor=0.5 must be 1 or more"),
        ({"factor": math.nan}, "rotary_scaling.factor=nan must be 1 or more"),
        ({"original_context_length": 0}, "rotary_scaling.original_context_length=0 must be 1 or more"),
        ({"low_freq_factor": 2.0}, "rotary_scaling.low_freq_factor=2.0 has no effect with rotary_scaling.name=yarn"),
        ({"beta_fast": 0.5}, "rotary_scaling.beta_slow=1.0 must be below rotary_scaling.beta_fast=0.5"),
        ({"attention_factor": 0.0}, "rotary_scaling.attention_factor=0.0 must be above 0"),
    ],
    ids=str,
)
def test_an_impossible_scaling_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        replace(YARN, **changes)
