"""What a training costs: counts that are exact, and models held to what can be counted."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from folio.distributed import cost_model as scale
from folio.models import GPTConfig, build_model
from folio.objectives import losses as objectives

SHAPE = GPTConfig(vocab_size=65, n_layers=3, n_heads=4, d_model=64, context_length=32)
N_SEQUENCES = 4


def tokens_of(shape: GPTConfig) -> Tensor:
    return torch.randint(0, shape.vocab_size, (N_SEQUENCES, shape.context_length))


SHAPES = {
    "GPT-2": SHAPE,
    "swiglu": replace(SHAPE, activation="swiglu"),
    "rotary": replace(SHAPE, positional_encoding="rotary"),
    "rms": replace(SHAPE, norm="rms_norm"),
    "untied": replace(SHAPE, tie_weights=False, d_ff=96),
    "qk": replace(SHAPE, qk_norm=True),
    "branches dropped": replace(SHAPE, dropout=0.1, attention_dropout=0.0),
}


@pytest.mark.parametrize("name", ["GPT-2", "swiglu", "rotary", "untied"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    """With attention by plain products: torch counts those of the fused one on a CPU as none."""
    shape = SHAPES[name]
    model, tokens = build_model(shape), tokens_of(shape)
    model(tokens)  # the first product on a CPU is tried out: folio.models.cpu_linear
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits = model(tokens)
    assert forward.get_total_flops() == scale.forward_flops(shape, N_SEQUENCES)
    with FlopCounterMode(display=False) as backward:
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total == scale.step_flops(shape, N_SEQUENCES)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parameters_and_those_of_a_block_are_the_models(shape: GPTConfig) -> None:
    model = build_model(shape)
    assert scale.n_parameters(shape) == sum(weight.numel() for weight in model.parameters())
    assert scale.block_parameters(shape) == sum(weight.numel() for weight in model.blocks[0].parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_a_block_keeps_is_what_autograd_saves(shape: GPTConfig) -> None:
    deeper = replace(shape, n_layers=shape.n_layers + 2)
    saved = (saved_bytes(deeper) - saved_bytes(shape)) / 2
    assert scale.block_activations(shape, N_SEQUENCES, half=False, is_cpu=True) == pytest.approx(saved, rel=0.06)


def saved_bytes(shape: GPTConfig) -> int:
    """Of the storages that a forward pass keeps for the backward pass, weights apart."""
    model = build_model(shape)
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
        model.hidden(tokens_of(shape))  # type: ignore[operator]
    return sum(sizes.values())


def test_the_loss_in_chunks_is_the_one_that_training_has() -> None:
    assert (scale.MIN_CHUNKED_VOCABULARY, scale.CHUNK_ROWS) == (
        objectives.MIN_CHUNKED_VOCABULARY,
        objectives.CHUNK_ROWS,
    )


def test_sharding_divides_weights_gradients_and_moments_and_sends_half_as_much_again() -> None:
    whole = scale.memory(SHAPE, n_sequences=1, n_devices=4)
    shared = scale.memory(SHAPE, n_sequences=1, n_devices=4, strategy="fsdp")
    assert (shared.weights, shared.gradients, shared.moments) == (
        whole.weights / 4,
        whole.gradients / 4,
        whole.moments / 4,
    )
    assert shared.activations == whole.activations
    sent = [scale.sent_bytes(1000, 4, strategy, half=False) for strategy in ("ddp", "fsdp")]
    assert sent == [2 * 0.75 * 4000, 3 * 0.75 * 4000]
    assert scale.sent_bytes(1000, 1, "ddp", half=True) == 0.0


def test_memory_grows_with_what_it_should() -> None:
    """Activations with the batch; with checkpointing, by the residual stream of each layer alone."""
    activations = [scale.memory(SHAPE, n_sequences=n).activations for n in (1, 2, 4)]
    assert [after / before for before, after in pairwise(activations)] == [2.0, 2.0]
    deep = replace(SHAPE, n_layers=48)
    plain = scale.memory(deep, n_sequences=4)
    again = scale.memory(deep, n_sequences=4, activation_checkpointing=True)
    assert again.activations < plain.activations / 8
    assert (
        scale.step_flops(deep, 4)
        < scale.step_flops(deep, 4, activation_checkpointing=True)
        < 4 / 3 * scale.step_flops(deep, 4)
    )


def test_gpt2_xl_does_not_fit_on_one_small_gpu_and_fits_shared_by_eight(compose: Any) -> None:
    config = compose("model=gpt2_xl", "trainer=ddp")
    machine = scale.Machine(memory=16 * scale.GIB, peak=1e14, utilization=0.4, link=1e11, node_link=1e10)
    shape = config.transformer_config(50_257)
    alone = scale.plans(config, shape, machine, 1)
    assert [(way.strategy, way.fits, way.bottleneck) for way in alone] == [
        ("ddp", False, "memory"),
        ("ddp + activation checkpointing", False, "memory"),
    ]
    shared = {way.strategy: way for way in scale.plans(config, shape, machine, 8)}
    assert not shared["ddp"].fits
    assert shared["fsdp"].fits
    assert shared["fsdp"].micro_batch_size * shared["fsdp"].accumulation * 8 == config.training.batch_size
    assert shared["fsdp + activation checkpointing"].compute_s > shared["fsdp"].compute_s


def test_slow_links_become_the_bottleneck(compose: Any) -> None:
    config = compose("model=gpt2_small", "trainer=ddp", "training.batch_size=16")
    shape = config.transformer_config(50_257)
    fast = scale.Machine(memory=80 * scale.GIB, peak=1e15, utilization=0.4, link=4.5e11, node_link=5e10)
    slow = replace(fast, link=1e9)
    ways = [scale.plans(config, shape, machine, 8)[0] for machine in (fast, slow)]
    assert [way.bottleneck for way in ways] == ["products", "links"]
    assert ways[0].step_s == ways[0].compute_s < ways[1].step_s
