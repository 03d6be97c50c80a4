"""Value embeddings, the scale of the token embedding, and residual projections that start at zero."""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import pytest
import torch
from tiny_models import CONDITIONINGS, FAMILY_OF, TINY, build, random_tokens
from torch import Tensor

from folio.models import GPT, Encoder, EncoderDecoder, TransformerConfig, build_model
from folio.models.cache import KeyValueCache
from folio.models.positional import POSITIONAL_ENCODINGS
from folio.models.quantization import quantize_int8

OPTIONS: dict[str, Any] = {"value_embeddings": 1, "scale_embedding": 3.5, "n_kv_heads": 2}


def plain_decoder(weights: Mapping[str, Tensor], config: TransformerConfig, tokens: Tensor) -> Tensor:
    """Compute the logits of one text (T,) token by token and head by head, as the papers' formulas say."""

    def norm(vector: Tensor, name: str) -> Tensor:
        centred = vector - vector.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(vector: Tensor, name: str) -> Tensor:
        return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]

    positions = weights["positional_encoding.embedding.weight"]
    stream = [3.5 * weights["token_embedding.weight"][token] + positions[t] for t, token in enumerate(tokens)]
    width, per_group = config.head_width, config.n_heads // config.key_value_heads
    for layer in range(config.n_layers):
        block, qs, ks, vs = f"blocks.{layer}", [], [], []
        for t, token in enumerate(tokens):
            qkv = linear(norm(stream[t], f"{block}.attention_norm"), f"{block}.attention.qkv_projection")
            q, k, v = qkv.split([config.d_model, config.key_value_heads * width, config.key_value_heads * width])
            if layer in (0, config.n_layers - 1):
                weight = weights["value_embeddings.weights"][0 if layer == 0 else 1, 0]
                v = v + weight * weights["value_embeddings.tables.0.weight"][token]
            qs, ks, vs = [*qs, q.view(-1, width)], [*ks, k.view(-1, width)], [*vs, v.view(-1, width)]
        for t in range(len(tokens)):
            mixed = []
            for head in range(config.n_heads):
                group = head // per_group
                scores = torch.stack([qs[t][head] @ ks[s][group] / math.sqrt(width) for s in range(t + 1)])
                mixed.append(sum(w * vs[s][group] for s, w in enumerate(scores.exp() / scores.exp().sum())))
            stream[t] = stream[t] + linear(torch.cat(mixed), f"{block}.attention.out_projection")
            inner = linear(norm(stream[t], f"{block}.feed_forward_norm"), f"{block}.feed_forward.in_projection")
            cubed = math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)
            stream[t] = stream[t] + linear(inner / 2 * (1 + cubed.tanh()), f"{block}.feed_forward.out_projection")
    return torch.stack([weights["output.weight"] @ norm(vector, "final_norm") for vector in stream])


@torch.no_grad()
def test_a_decoder_with_value_embeddings_equals_one_written_out() -> None:
    model, tokens = build(GPT, **OPTIONS), random_tokens(1, 7)
    expected = plain_decoder(model.state_dict(), model.config, tokens[0])
    torch.testing.assert_close(model(tokens)[0], expected)


@pytest.mark.parametrize("n_tables", [1, 2, 3])
def test_the_first_and_the_last_layers_share_the_tables(n_tables: int) -> None:
    model = build(GPT, n_layers=6, value_embeddings=n_tables, **{"n_kv_heads": 2})
    tokens = random_tokens(1, 5)
    assert model.value_embeddings is not None
    layers = model.value_embeddings(tokens)
    for layer, found in enumerate(layers):
        table = layer if layer < n_tables else layer - (6 - n_tables)
        if not 0 <= table < n_tables:
            assert found is None
            continue
        weight = model.value_embeddings.weights[int(layer >= 3), table]
        torch.testing.assert_close(found, weight * model.value_embeddings.tables[table].weight[tokens])
    kv_width = 2 * model.config.head_width
    extra = n_tables * (TINY.vocab_size * kv_width + 2)
    without = build(GPT, n_layers=6, n_kv_heads=2)
    assert model.n_parameters - without.n_parameters == extra
    assert model.n_parameters_without_embeddings == without.n_parameters_without_embeddings


@torch.no_grad()
@pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
def test_value_embeddings_compose_with_cache_padding_documents_and_windows(encoding: str) -> None:
    model = build(GPT, positional_encoding=encoding, tie_weights=False, attention_window="SL:4", value_embeddings=1)
    tokens = random_tokens(2, 12)
    mask = torch.tensor([[False] * 3 + [True] * 9, [True] * 12])
    documents = torch.tensor([list(accumulate([0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0])), [0] * 12])
    together = model(tokens, mask, documents)
    for columns in (slice(3, 5), slice(5, 9), slice(9, 12)):
        torch.testing.assert_close(together[0, columns], model(tokens[:1, columns])[0])
    torch.testing.assert_close(together[1], model(tokens[1:])[0])
    cache = KeyValueCache(model.config.n_layers, 12)
    parts = [model.hidden(part, cache=cache) for part in tokens.split([5, 1, 6], dim=1)]
    torch.testing.assert_close(model.output(torch.cat(parts, dim=1)), model(tokens))


def test_an_encoder_reads_value_embeddings_too_and_an_encoder_decoder_refuses_them() -> None:
    model, tokens = build(Encoder, value_embeddings=1), random_tokens(1, 5)
    before = model(tokens)
    with torch.no_grad():
        model.value_embeddings.tables[0].weight += 1  # type: ignore[union-attr, operator]
    assert not torch.allclose(model(tokens), before)
    for conditioning in CONDITIONINGS:
        with pytest.raises(ValueError, match="value_embeddings=1 does not fit family=encoder_decoder"):
            build(EncoderDecoder, conditioning=conditioning, value_embeddings=1)


@torch.no_grad()
def test_the_options_survive_int8_and_compilation() -> None:
    model, tokens = build(GPT, **OPTIONS, zero_init_residual=True).float(), random_tokens(2, 8)
    expected = model(tokens)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), expected)
    rounded = quantize_int8(model)(tokens)
    assert (rounded - expected).square().mean().sqrt() < 0.05 * expected.std()


@pytest.mark.parametrize("init", ["gpt2", "xavier"])
@pytest.mark.parametrize("kind", FAMILY_OF)
def test_blocks_that_start_at_zero_pass_on_what_they_read_and_learn(kind: type, init: str) -> None:
    options = {"family": FAMILY_OF[kind], "n_layers": 2, "d_model": 16, "vocab_size": 61, "n_heads": 2}
    options |= {"context_length": 16, "conditioning": "cross_attention" if kind is EncoderDecoder else None}
    models = []
    for is_zero in (False, True):
        torch.manual_seed(0)
        models.append(build_model(TransformerConfig(init=init, zero_init_residual=is_zero, **options)))  # type: ignore[arg-type]
    usual, zeros = (dict(model.named_parameters()) for model in models)
    changed = {name for name in usual if not torch.equal(usual[name], zeros[name])}
    assert changed == {name for name in usual if name.endswith("out_projection.weight")}
    assert not any(zeros[name].any() for name in changed)
    model, tokens = models[1].eval(), random_tokens(2, 9)
    inputs = (tokens, tokens) if kind is EncoderDecoder else (tokens,)
    logits = model(*inputs)
    stack = model.decoder if isinstance(model, EncoderDecoder) else model
    torch.testing.assert_close(logits, model.output(stack.final_norm(stack.embed(tokens, torch.arange(9)))))
    logits.square().sum().backward()
    learning = {name for name in changed if zeros[name].grad is not None and zeros[name].grad.any()}  # type: ignore[union-attr]
    assert learning >= {name for name in changed if "encoder." not in name}, "each begins to move in the first step"


@pytest.mark.parametrize(
    ("scale", "factor"), [(None, None), (False, None), (True, math.sqrt(32)), (1.0, 1.0), (12, 12.0), (0.5, 0.5)]
)
def test_the_token_embedding_is_multiplied_by_a_number_or_by_the_root_of_its_width(
    scale: float | None, factor: float | None
) -> None:
    model, tokens = build(GPT, scale_embedding=scale, positional_encoding="none"), random_tokens(1, 3)
    assert model.config.embedding_scale == factor
    embedded = model.embed(tokens, torch.arange(3))
    torch.testing.assert_close(embedded, (1.0 if factor is None else factor) * model.token_embedding(tokens))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_embeddings": 2}, "value_embeddings=2 must be at least 0 and at most 1, half of n_layers=3"),
        ({"value_embeddings": -1}, "value_embeddings=-1 must be at least 0"),
        ({"scale_embedding": 0.0}, r"scale_embedding=0\.0 must be a factor above 0, or true for sqrt"),
        ({"scale_embedding": math.nan}, "scale_embedding=nan must be a factor above 0"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(GPT, **options)
