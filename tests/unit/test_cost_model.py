"""The cost model: counts are exact, and estimates agree with what can be counted."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from folio.distributed import cost_model
from folio.distributed.cost_model import (
    GIB,
    Hardware,
    block_activations,
    communication_bytes,
    estimate_memory,
    make_plans,
    step_flops,
)
from folio.models import GPTConfig, build_model
from folio.models.cache import KeyValueCache
from folio.objectives import losses

CONFIG = GPTConfig(vocab_size=65, n_layers=3, n_heads=4, d_model=64, context_length=32)
N_SEQUENCES = 4
CONFIGS = {
    "gpt2": CONFIG,
    "swiglu": replace(CONFIG, activation="swiglu"),
    "rotary": replace(CONFIG, positional_encoding="rotary"),
    "rms_norm": replace(CONFIG, norm="rms_norm"),
    "untied": replace(CONFIG, tie_weights=False, d_ff=96),
    "qk_norm": replace(CONFIG, qk_norm=True),
    "qk_norm, rotary": replace(CONFIG, qk_norm=True, positional_encoding="rotary"),
    "feed_forward_dropout": replace(CONFIG, feed_forward_dropout=0.1),
    "article": replace(CONFIG, norm_position="post", final_norm=True, output_bias=True, attention_bias=False),
    "concatenated": replace(CONFIG, positional_encoding="concatenated"),
    "grouped": replace(CONFIG, n_kv_heads=2, d_head=24),
    "qwen3": replace(CONFIG, n_kv_heads=1, d_head=32, qk_norm=True, positional_encoding="rotary"),
    "partial": replace(CONFIG, positional_encoding="rotary", rotary_fraction=0.5),
    "window": replace(CONFIG, attention_window=8, logit_softcap=15.0),
    "dropout": replace(CONFIG, dropout=0.1, attention_dropout=0.0),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def random_tokens(config: GPTConfig) -> Tensor:
    return torch.randint(0, config.vocab_size, (N_SEQUENCES, config.context_length))


@pytest.mark.parametrize(
    "name", ["gpt2", "swiglu", "rotary", "untied", "article", "concatenated", "grouped", "qwen3", "window"]
)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    """With unfused attention: torch counts no FLOPs for fused attention on a CPU."""
    config = CONFIGS[name]
    model, tokens = build_model(config), random_tokens(config)
    model(tokens)  # the first product on a CPU is a trial: folio.models.cpu_linear
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits = model(tokens)
    assert forward.get_total_flops() == cost_model.forward_flops(config, N_SEQUENCES)
    with FlopCounterMode(display=False) as backward:
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    assert forward.get_total_flops() + backward.get_total_flops() == step_flops(config, N_SEQUENCES)


@each_config
def test_numbers_of_parameters_are_the_models(config: GPTConfig) -> None:
    model = build_model(config)
    assert cost_model.n_parameters(config) == sum(weight.numel() for weight in model.parameters())
    block = model.blocks[0]  # type: ignore[union-attr]
    assert cost_model.block_parameters(config) == sum(weight.numel() for weight in block.parameters())


@each_config
def test_a_block_keeps_what_autograd_saves(config: GPTConfig) -> None:
    deeper = replace(config, n_layers=config.n_layers + 2)
    saved = (saved_bytes(deeper) - saved_bytes(config)) / 2
    assert block_activations(config, N_SEQUENCES, half=False, is_cpu=True) == pytest.approx(saved, rel=0.06)


def saved_bytes(config: GPTConfig) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without the weights."""
    model = build_model(config)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Any] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden(random_tokens(config))  # type: ignore[operator]
    return sum(sizes.values())


@pytest.mark.parametrize("name", ["gpt2", "grouped", "qwen3", "window"])
def test_the_cache_of_a_text_has_the_estimated_size(name: str) -> None:
    config = CONFIGS[name]
    cache = KeyValueCache(config.n_layers, config.context_length, config.layer_windows)
    build_model(config).hidden(random_tokens(config)[:1], cache=cache)  # type: ignore[operator]
    stored = [(layer._keys, layer._values) for layer in cache.layers]
    size = sum(part.nbytes for parts in stored for part in parts if part is not None)
    assert size == cost_model.cache_bytes(config, config.context_length)


def test_the_constants_of_the_chunked_loss_are_those_of_training() -> None:
    ours = (cost_model.MIN_CHUNKED_VOCABULARY, cost_model.CHUNK_ROWS)
    assert ours == (losses.MIN_CHUNKED_VOCABULARY, losses.CHUNK_ROWS)


def test_fsdp_divides_weights_gradients_and_moments_and_sends_more() -> None:
    whole = estimate_memory(CONFIG, n_sequences=1, n_devices=4)
    sharded = estimate_memory(CONFIG, n_sequences=1, n_devices=4, strategy="fsdp")
    assert (sharded.weights, sharded.gradients, sharded.moments) == (
        whole.weights / 4,
        whole.gradients / 4,
        whole.moments / 4,
    )
    assert sharded.activations == whole.activations
    assert communication_bytes(1000, 4, "ddp", half=False) == 2 * 0.75 * 4000
    assert communication_bytes(1000, 4, "fsdp", half=False) == 3 * 0.75 * 4000
    assert communication_bytes(1000, 4, "fsdp", half=True, accumulation=2) == 2 * 0.75 * 8000
    assert communication_bytes(1000, 1, "ddp", half=True) == 0.0


def test_activations_grow_with_the_batch_and_checkpointing_keeps_only_the_residual_stream() -> None:
    activations = [estimate_memory(CONFIG, n_sequences=n).activations for n in (1, 2, 4)]
    assert [after / before for before, after in pairwise(activations)] == [2.0, 2.0]
    deep = replace(CONFIG, n_layers=48)
    plain = estimate_memory(deep, n_sequences=4)
    checkpointed = estimate_memory(deep, n_sequences=4, activation_checkpointing=True)
    assert checkpointed.activations < plain.activations / 8
    flops = step_flops(deep, 4)
    assert flops < step_flops(deep, 4, activation_checkpointing=True) < 4 / 3 * flops


def test_gpt2_xl_does_not_fit_on_one_small_gpu_and_fits_when_sharded_over_eight(compose: Any) -> None:
    config = compose("model=gpt2_xl", "trainer=ddp")
    hardware = Hardware(memory=16 * GIB, peak=1e14, utilization=0.4, link=1e11, node_link=1e10)
    model = config.transformer_config(50_257)
    assert [(plan.strategy, plan.fits, plan.bottleneck) for plan in make_plans(config, model, hardware, 1)] == [
        ("ddp", False, "memory"),
        ("ddp + activation checkpointing", False, "memory"),
    ]
    plans = {plan.strategy: plan for plan in make_plans(config, model, hardware, 8)}
    fsdp = plans["fsdp"]
    assert not plans["ddp"].fits
    assert fsdp.fits
    assert fsdp.micro_batch_size * fsdp.accumulation * 8 == config.training.batch_size
    assert plans["fsdp + activation checkpointing"].compute_s > fsdp.compute_s


def test_slow_links_become_the_bottleneck(compose: Any) -> None:
    config = compose("model=gpt2_small", "trainer=ddp", "training.batch_size=16")
    model = config.transformer_config(50_257)
    fast = Hardware(memory=80 * GIB, peak=1e15, utilization=0.4, link=4.5e11, node_link=5e10)
    slow = replace(fast, link=1e9)
    on_fast, on_slow = (make_plans(config, model, hardware, 8)[0] for hardware in (fast, slow))
    assert (on_fast.bottleneck, on_slow.bottleneck) == ("compute", "communication")
    assert on_fast.step_s == on_fast.compute_s < on_slow.step_s
