"""Estimate memory, compute, communication and time of a training run, for `scripts/plan.py`.

Counts of parameters and of operations are exact. Memory and time are models; docs/scale.md compares them with
measurements. Units are bytes, floating-point operations (FLOPs) and seconds.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal

import torch

from folio.config.run import RunConfig
from folio.config.training import largest_micro_batch_size
from folio.models import TransformerConfig, build_model

Bottleneck = Literal["compute", "communication", "memory"]

GIB = 2**30
CPU_OVERHEAD = 32 * 2**20
"""Bytes of heap fragmentation and of kernels on a CPU: 25 to 42 MiB measured, with 5 to 28 million parameters."""
USABLE_SHARE = 0.95
"""Share of a device's memory to plan with. The rest is for fragmentation, kernels and workspaces."""
TOKENS_PER_PARAMETER = 20
"""Compute-optimal number of tokens (Hoffmann et al. 2022, "Chinchilla", section 3.4)."""

MIN_CHUNKED_VOCABULARY, CHUNK_ROWS = 4096, 256
"""The constants of `folio.objectives.losses`, which lies in a higher layer. A test compares them."""


@dataclass(frozen=True)
class Hardware:
    """A device and its links."""

    memory: float
    """Bytes per device."""
    peak: float
    """Peak FLOPs per second of a device, in the precision of training."""
    utilization: float
    """Share of the peak that a step reaches, apart from communication."""
    link: float
    """Bytes per second between devices of one machine."""
    node_link: float
    """Bytes per second from a device to another machine."""
    devices_per_node: int = 8
    is_cpu: bool = False


@dataclass(frozen=True)
class Memory:
    """Peak memory of a device, in bytes."""

    weights: float
    """Weights in float32, and their copies in mixed precision."""
    gradients: float
    moments: float
    activations: float
    """Tensors that the forward pass of one micro-batch keeps for the backward pass."""
    logits: float
    """Logits in the loss, with their softmax and gradient."""
    workspace: float = 0.0
    """Backward pass through one feed-forward layer: three tensors of its width."""
    overhead: float = 0.0
    """Heap and kernels of a CPU."""
    unsharded: float = 0.0
    """FSDP: gathered weights of two blocks, and, in float32, of everything outside the blocks."""

    @property
    def total(self) -> float:
        return float(sum(getattr(self, part.name) for part in fields(self)))


@dataclass(frozen=True)
class Plan:
    """A way to train, and its costs."""

    strategy: str
    micro_batch_size: int
    accumulation: int
    memory: Memory
    fits: bool
    compute_s: float
    """Seconds of computation per step."""
    communication_s: float
    """Seconds of communication per step, part of which the computation hides."""
    step_s: float
    bottleneck: Bottleneck


@cache
def n_parameters(model: TransformerConfig) -> int:
    """Return the exact number of parameters, without allocating them. Tied weights count once."""
    with torch.device("meta"):
        return build_model(model).n_parameters


def block_parameters(model: TransformerConfig) -> int:
    """Return the exact number of parameters of one block."""
    return n_parameters(replace(model, n_layers=2)) - n_parameters(replace(model, n_layers=1))


def optimal_tokens(parameters: int) -> int:
    """Return the compute-optimal number of training tokens."""
    return TOKENS_PER_PARAMETER * parameters


def forward_flops(model: TransformerConfig, n_sequences: int) -> int:
    """Return the FLOPs of the matrix products in a forward pass of a decoder over whole contexts.

    A multiplication and an addition count as two. Attention counts in full, as in kernels that compute what is masked.
    """
    tokens, width = n_sequences * model.context_length, model.d_model
    q_width, kv_width = _attention_widths(model)
    projections = width * (2 * q_width + 2 * kv_width + _activation_width(model) + model.feed_forward_width)
    attention = 2 * model.context_length * q_width
    return 2 * tokens * (model.n_layers * (projections + attention) + model.vocab_size * width)


def step_flops(model: TransformerConfig, n_sequences: int, activation_checkpointing: bool = False) -> int:
    """Return the FLOPs of a training step.

    Each product has two gradients. Activation checkpointing adds a forward pass through the blocks.
    """
    forward = forward_flops(model, n_sequences)
    output_layer = 2 * n_sequences * model.context_length * model.vocab_size * model.d_model
    return 3 * forward + (forward - output_layer if activation_checkpointing else 0)


def communication_bytes(parameters: int, n_devices: int, strategy: str, half: bool, accumulation: int = 1) -> float:
    """Return the bytes that a device sends in an optimizer step.

    DDP all-reduces the gradients once. For each micro-batch FSDP all-gathers the weights twice, in mixed precision
    (`half`) in two bytes, and reduce-scatters the gradients in float32. In a ring of n devices, an all-gather and a
    reduce-scatter each send (n - 1) / n of a tensor, and an all-reduce is both.
    """
    ring = (n_devices - 1) / n_devices
    if strategy == "ddp":
        return 2 * ring * 4.0 * parameters
    return accumulation * ring * (2 * (2.0 if half else 4.0) + 4.0) * parameters


def block_activations(model: TransformerConfig, n_sequences: int, half: bool, is_cpu: bool) -> float:
    """Return the bytes that a pre-norm block with fused attention keeps for its backward pass.

    On a CPU, in float32: the residual stream before both norms, the outputs of both norms, q, k, v, the output of
    attention, and the input of the activation, which is computed again. On a GPU also the output of the activation. In
    mixed precision (`half`) the residual stream stays in float32, and everything else takes two bytes.
    """
    tokens, width = n_sequences * model.context_length, model.d_model
    q_width, kv_width = _attention_widths(model)
    stream, rest = 2 * width, 2 * width + 2 * q_width + 2 * kv_width + _activation_width(model)
    if not is_cpu:
        rest += model.feed_forward_width
    else:  # some layers consist of several operations there, each of which keeps its inputs
        if model.qk_norm or model.positional_encoding == "rotary":  # new queries and keys
            rest += q_width + kv_width
        if model.positional_encoding == "rotary":  # a copy of the output of attention
            rest += q_width
    statistics = 4 * 4 + 4 * model.n_heads
    kept = tokens * (4 * stream + (2 if half else 4) * rest + statistics)
    if model.dropout:
        kept += tokens * 2 * width * (4 if is_cpu else 1)  # dropout masks
    if model.feed_forward_dropout:  # the mask, and on a CPU the activation, which is then kept
        kept += tokens * model.feed_forward_width * (8 if is_cpu else 1)
    if model.attention_dropout_rate and is_cpu:  # no fused attention: scores, their softmax, and that after dropout
        kept += 4 * 3 * tokens * model.n_heads * model.context_length
    return float(kept)


def loss_memory(model: TransformerConfig, n_sequences: int, half: bool, is_cpu: bool) -> float:
    """Return the peak bytes of the loss."""
    tokens, symbols = n_sequences * model.context_length, model.vocab_size
    if is_cpu and symbols >= MIN_CHUNKED_VOCABULARY:
        return 4.0 * (min(CHUNK_ROWS, tokens) * symbols + tokens * model.d_model)
    return tokens * symbols * ((2 if half else 4) + 4 + 4)  # logits, their log-softmax, its gradient


def estimate_memory(
    model: TransformerConfig,
    *,
    n_sequences: int,
    n_devices: int = 1,
    strategy: str = "ddp",
    accumulates: bool = False,
    activation_checkpointing: bool = False,
    half: bool = False,
    is_cpu: bool = False,
    n_moments: int = 2,
) -> Memory:
    """Return the peak memory of a device with micro-batches of `n_sequences`.

    Weights, gradients and moments are in float32.
    """
    parameters, tokens = n_parameters(model), n_sequences * model.context_length
    is_sharded = strategy == "fsdp"
    own = 4.0 * parameters / (n_devices if is_sharded else 1)
    block = block_activations(model, n_sequences, half, is_cpu)
    kept = model.n_layers * block
    if activation_checkpointing:
        kept = model.n_layers * 4.0 * tokens * model.d_model + block
    kept += 2 * 4.0 * tokens * model.d_model  # before and after the last norm
    logits = loss_memory(model, n_sequences, half, is_cpu)
    gradients = own
    if n_devices == 1 and not accumulates:
        # Gradients appear as activations are freed: only the excess counts. The output layer's is first, with the loss.
        at_the_end = max(0.0, own + block - kept - logits)
        output_layer = 4.0 * model.vocab_size * model.d_model
        gradients = max(at_the_end, min(output_layer, own))
    outside_blocks = parameters - model.n_layers * block_parameters(model)
    gathered = (2.0 if half else 4.0) * 2 * block_parameters(model) + 4.0 * outside_blocks
    return Memory(
        weights=own + (2.0 * parameters if half and not is_sharded else 0.0),
        gradients=gradients,
        moments=n_moments * own,
        activations=kept,
        logits=logits,
        workspace=3.0 * (2 if half else 4) * tokens * _activation_width(model),
        overhead=CPU_OVERHEAD if is_cpu else 0.0,
        unsharded=gathered if is_sharded else 0.0,
    )


def make_plan(
    config: RunConfig,
    model: TransformerConfig,
    hardware: Hardware,
    n_devices: int,
    strategy: str,
    activation_checkpointing: bool,
) -> Plan:
    """Return the costs with the largest micro-batch that fits, up to the config's; with a single sequence if none fits.

    DDP communicates during the backward pass, which is two thirds of the computation; FSDP during all of it.
    """
    half = config.trainer.precision != "32-true" and not hardware.is_cpu
    own = config.training.batch_size // n_devices

    def memory_of(micro_batch_size: int) -> Memory:
        return estimate_memory(
            model,
            n_sequences=micro_batch_size,
            n_devices=n_devices,
            strategy=strategy,
            accumulates=micro_batch_size < own,
            activation_checkpointing=activation_checkpointing,
            half=half,
            is_cpu=hardware.is_cpu,
            n_moments=1 if config.optimizer.name == "sgd" else 2,
        )

    usable = USABLE_SHARE * hardware.memory
    size = largest_micro_batch_size(own, min(own, config.training.micro_batch_size or own))
    while size > 1 and memory_of(size).total > usable:
        size = largest_micro_batch_size(own, size - 1)
    memory, accumulation = memory_of(size), own // size

    flops = step_flops(model, config.training.batch_size, activation_checkpointing)
    compute_s = flops / n_devices / (hardware.peak * hardware.utilization)
    link = hardware.link if n_devices <= hardware.devices_per_node else hardware.node_link
    communication_s = communication_bytes(n_parameters(model), n_devices, strategy, half, accumulation) / link
    hidden_s = compute_s * (2 / 3 if strategy == "ddp" else 1)
    fits = memory.total <= usable
    return Plan(
        strategy=strategy + (" + activation checkpointing" if activation_checkpointing else ""),
        micro_batch_size=size,
        accumulation=accumulation,
        memory=memory,
        fits=fits,
        compute_s=compute_s,
        communication_s=communication_s,
        step_s=compute_s + max(0.0, communication_s - hidden_s),
        bottleneck="memory" if not fits else "communication" if communication_s > hidden_s else "compute",
    )


def make_plans(config: RunConfig, model: TransformerConfig, hardware: Hardware, n_devices: int) -> list[Plan]:
    """Return a plan for each strategy that the hardware can use, the simplest first."""
    strategies = ["ddp"] if n_devices == 1 else ["ddp", "fsdp"]
    return [
        make_plan(config, model, hardware, n_devices, strategy, activation_checkpointing)
        for strategy in strategies
        for activation_checkpointing in (False, True)
    ]


def _attention_widths(model: TransformerConfig) -> tuple[int, int]:
    """Return the widths of all queries together, and of all keys, which is also that of the values."""
    return model.n_heads * model.head_width, model.key_value_heads * model.head_width


def cache_bytes(model: TransformerConfig, n_tokens: int) -> int:
    """Return the bytes of the cached keys and values of a text, in float32; see `folio.models.cache` for windows."""
    columns = (n_tokens if window is None else min(n_tokens, window + window // 4) for window in model.layer_windows)
    return 4 * 2 * _attention_widths(model)[1] * sum(columns)


def _activation_width(model: TransformerConfig) -> int:
    """Return the width of what a feed-forward layer's activation reads."""
    return model.feed_forward_width * (2 if model.activation == "swiglu" else 1)
