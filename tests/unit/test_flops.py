"""The model FLOPs of training are those that torch counts, for every family of models."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from folio.models import GPT, GPTConfig, TransformerConfig, build_model
from folio.models.flops import model_flops_per_token, training_flops_per_token

SIZES = {"vocab_size": 50, "context_length": 16, "n_layers": 2, "n_heads": 4, "d_model": 32}
DECODER = GPTConfig(**SIZES)
N_PREFIX = 6

CONFIGS: dict[str, TransformerConfig] = {
    "gpt2": DECODER,
    "untied": replace(DECODER, tie_weights=False),
    "qwen3": replace(
        DECODER, n_kv_heads=2, d_head=24, positional_encoding="rotary", activation="swiglu", norm="rms_norm", bias=False
    ),
    "value embeddings": replace(DECODER, value_embeddings=1),
    "encoder": replace(DECODER, family="encoder"),
    "hidden_cache": replace(DECODER, family="encoder_decoder", conditioning="hidden_cache"),
    "cross_attention": replace(DECODER, family="encoder_decoder", conditioning="cross_attention"),
}


def test_model_flops_equal_a_count_by_hand() -> None:
    """GPT-2 with 1 layer, D 4, T 8, V 10: every product of the step, forward and twice backward."""
    n_layers, d_model, context, vocab = 1, 4, 8, 10
    # Weights: fused QKV, output, two of the feed-forward layer, and the head, which is tied to the embedding.
    products = 3 * d_model * d_model + d_model * d_model + 2 * 4 * d_model * d_model + vocab * d_model
    biases_and_norms = 3 * d_model + d_model + 4 * d_model + d_model + 3 * 2 * d_model
    attention = 2 * (2 * context * d_model)  # q k and the weighted sum of v, two FLOPs for each product
    by_hand = 3 * (2 * (products + biases_and_norms) + n_layers * attention)
    model = GPT(GPTConfig(vocab_size=vocab, context_length=context, n_layers=1, n_heads=2, d_model=d_model))
    assert sum(p.numel() for p in model.parameters()) - context * d_model == products + biases_and_norms
    n_parameters = products + biases_and_norms
    assert model_flops_per_token(n_parameters=n_parameters, width=d_model, n_keys=n_layers * context) == by_hand
    assert training_flops_per_token(model, context) == by_hand


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_products_of_the_forward_pass_are_those_that_torch_counts(config: TransformerConfig) -> None:
    """torch counts no FLOPs for biases and norms, 6 for each in the formula, which are small in any real model.

    An encoder-decoder is counted as if every weight of its decoder read all that attention reads, which is too much
    by the projections that read the prefix alone.
    """
    context, model = config.context_length, build_model(config).eval()
    tokens, prefix = torch.zeros(1, context, dtype=torch.int64), torch.zeros(1, N_PREFIX, dtype=torch.int64)
    inputs = (tokens, prefix) if config.family == "encoder_decoder" else (tokens,)
    n_tokens = context + (N_PREFIX if config.family == "encoder_decoder" else 0)
    model(*inputs)  # the first product on a CPU is a trial: folio.models.cpu_linear
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        model(*inputs)
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    counted = 3 * forward.get_total_flops() / n_tokens
    assert counted <= training_flops_per_token(model, n_tokens) <= 1.25 * counted + 6 * vectors
    if config.family != "encoder_decoder":
        assert training_flops_per_token(model, n_tokens) - 6 * vectors == counted


def test_a_window_counts_for_what_it_holds() -> None:
    windowed = build_model(replace(DECODER, attention_window=4))
    whole = build_model(DECODER)
    saved = 12 * DECODER.d_model * DECODER.n_layers * (DECODER.context_length - 4)
    context = DECODER.context_length
    assert training_flops_per_token(whole, context) - training_flops_per_token(windowed, context) == saved
