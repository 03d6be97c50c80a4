"""What a training costs before it is begun: memory of a device, work of a step, bytes between devices, tokens.

Counts of parameters and products are exact. Memory and time are models, whose parts are named; docs/scale.md says how
near they come to what was measured. Units are bytes, floating-point operations and seconds.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal

import torch

from folio.config.run import RunConfig
from folio.config.training import largest_micro_batch_size
from folio.models import TransformerConfig, build_model

Bottleneck = Literal["products", "links", "memory"]

GIB = 2**30
GAPS = 32 * 2**20
"""On a CPU, as measured: 25 to 42 MiB with models of 5 to 28 million parameters."""
TOKENS_PER_PARAMETER = 20
"""What trains a model of a size best for the products it costs (Hoffmann et al. 2022, "Chinchilla", section 3.4)."""

MIN_CHUNKED_VOCABULARY, CHUNK_ROWS = 4096, 256
"""Of the loss on a CPU; `folio.objectives.losses`, to whose numbers a test holds these."""


@dataclass(frozen=True)
class Machine:
    """A device and what joins it to the others."""

    memory: float
    """Bytes of one device."""
    peak: float
    """Floating-point operations a second of one device, in the precision of training."""
    utilization: float
    """Share of the peak that a step reaches between its meetings."""
    link: float
    """Bytes a second that a device sends to its neighbour on the same machine."""
    node_link: float
    """The same to another machine."""
    devices_per_node: int = 8
    is_cpu: bool = False


@dataclass(frozen=True)
class Memory:
    """Of one device, in bytes, where a step needs most."""

    weights: float
    gradients: float
    moments: float
    activations: float
    """What the backward pass needs of the forward pass, for one micro batch."""
    logits: float
    """What the loss holds of tokens x symbols."""
    working: float = 0.0
    """Of the backward pass through one feed-forward layer: three arrays as wide as it is."""
    gaps: float = 0.0
    """Of a CPU's heap, and what its kernels bring along."""
    gathered: float = 0.0
    """Of sharded weights: two blocks and what lies outside them, whole."""

    @property
    def total(self) -> float:
        return float(sum(getattr(self, part.name) for part in fields(self)))


@dataclass(frozen=True)
class Plan:
    """A way to train, and what it costs."""

    strategy: str
    micro_batch_size: int
    accumulation: int
    memory: Memory
    fits: bool
    compute_s: float
    """Of a step: its products."""
    links_s: float
    """Of a step: what is sent, were nothing computed meanwhile."""
    step_s: float
    bottleneck: Bottleneck


@cache
def n_parameters(shape: TransformerConfig) -> int:
    """Exact, without memory for the weights; tied weights count once."""
    with torch.device("meta"):
        return build_model(shape).n_parameters


def in_width(shape: TransformerConfig) -> int:
    """Of what goes into the activation of a feed-forward layer."""
    return shape.feed_forward_width * (2 if shape.activation == "swiglu" else 1)


def forward_flops(shape: TransformerConfig, n_sequences: int) -> int:
    """The matrix products of a forward pass of a decoder over whole contexts, two for each multiplication.

    Attention counts whole, as kernels that do not skip the hidden half would do it.
    """
    tokens, width = n_sequences * shape.context_length, shape.d_model
    projections = 4 * width * width + width * in_width(shape) + shape.feed_forward_width * width
    attention = 2 * shape.context_length * width
    return 2 * tokens * (shape.n_layers * (projections + attention) + shape.vocab_size * width)


def step_flops(shape: TransformerConfig, n_sequences: int, activation_checkpointing: bool = False) -> int:
    """Of a training step: each product has two gradients; blocks that are computed again cost one more pass."""
    forward = forward_flops(shape, n_sequences)
    output = 2 * n_sequences * shape.context_length * shape.vocab_size * shape.d_model
    return 3 * forward + (forward - output if activation_checkpointing else 0)


def tokens_for(parameters: int) -> int:
    """By Chinchilla's rule."""
    return TOKENS_PER_PARAMETER * parameters


def block_activations(shape: TransformerConfig, n_sequences: int, half: bool, is_cpu: bool) -> float:
    """Bytes that a block keeps for its backward pass, pre-norm, by the fused attention.

    On a CPU (float32): the residual stream before both norms, both norms' outputs, q, k, v, what attention gives, and
    what goes into the activation, which is computed again. On a GPU what goes out of it, too. In mixed precision
    (`half`) the residual stream stays in float32, and everything else is kept in two bytes.
    """
    tokens, width = n_sequences * shape.context_length, shape.d_model
    stream, rest = 2 * width, 2 * width + 4 * width + in_width(shape)
    if not is_cpu:
        rest += shape.feed_forward_width
    if is_cpu:  # where some layers are made of several operations, each of which keeps what it reads; as counted
        rest += round(width * (3 * (shape.positional_encoding == "rotary") + 2.5 * (shape.norm == "rms_norm")))
        rest += 5 * width * shape.qk_norm
    statistics = 4 * 4 + 4 * shape.n_heads
    kept = tokens * (4 * stream + (2 if half else 4) * rest + statistics)
    if shape.dropout:
        kept += tokens * 2 * width * (4 if is_cpu else 1)  # which elements are dropped
    if shape.attention_dropout_rate and is_cpu:  # whose fused attention knows none: scores, softmax, what is left of it
        kept += 4 * 3 * tokens * shape.n_heads * shape.context_length
    return float(kept)


def loss_memory(shape: TransformerConfig, n_sequences: int, half: bool, is_cpu: bool) -> float:
    """Bytes that the loss holds at once."""
    tokens, symbols = n_sequences * shape.context_length, shape.vocab_size
    if is_cpu and symbols >= MIN_CHUNKED_VOCABULARY:
        return 4.0 * (min(CHUNK_ROWS, tokens) * symbols + tokens * shape.d_model)
    return tokens * symbols * ((2 if half else 4) + 4 + 4)  # logits, their log-softmax, its gradient


def memory(
    shape: TransformerConfig,
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
    """Of one device with a micro batch of `n_sequences`. Weights, gradients and moments are in float32."""
    parameters = n_parameters(shape)
    share = 4.0 * parameters / (n_devices if strategy == "fsdp" else 1)
    tokens = n_sequences * shape.context_length
    block = block_activations(shape, n_sequences, half, is_cpu)
    kept = shape.n_layers * block
    if activation_checkpointing:
        kept = shape.n_layers * 4.0 * tokens * shape.d_model + block
    ends = 2 * 4.0 * tokens * shape.d_model  # before and after the last norm
    copies = 2.0 * parameters if half and strategy != "fsdp" else 0.0  # of the weights, in two bytes
    logits = loss_memory(shape, n_sequences, half, is_cpu)
    gradients = share
    if n_devices == 1 and not accumulates:
        # They come as activations go: what is larger counts. The output layer's is there first, with the loss.
        late = max(0.0, share + block - kept - ends - logits)
        first = 4.0 * shape.vocab_size * shape.d_model
        gradients = max(late, min(first, share))
    gathered = 0.0
    if strategy == "fsdp":
        outside = parameters - shape.n_layers * block_parameters(shape)
        gathered = (2.0 if half else 4.0) * (2 * block_parameters(shape) + outside)
    working = 3.0 * (2 if half else 4) * tokens * in_width(shape)
    return Memory(
        share + copies, gradients, n_moments * share, kept + ends, logits, working, GAPS if is_cpu else 0.0, gathered
    )


def block_parameters(shape: TransformerConfig) -> int:
    """Of one block, exactly: what a second one adds."""
    return n_parameters(replace(shape, n_layers=2)) - n_parameters(replace(shape, n_layers=1))


def sent_bytes(parameters: int, n_devices: int, strategy: str, half: bool) -> float:
    """By one device in one optimizer step; DDP sends gradients once, FSDP weights twice and gradients once a step.

    A ring moves (n - 1) / n of an array to gather it or to reduce it to shares; reducing it to all is both.
    """
    if n_devices == 1:
        return 0.0
    ring = (n_devices - 1) / n_devices
    if strategy == "ddp":
        return 2 * ring * 4.0 * parameters
    return 3 * ring * (2.0 if half else 4.0) * parameters


def plan(
    config: RunConfig,
    shape: TransformerConfig,
    machine: Machine,
    n_devices: int,
    strategy: str,
    activation_checkpointing: bool,
) -> Plan:
    """The largest micro batch that fits, or that of the config; a single sequence where none does."""
    half = config.trainer.precision not in ("32-true",) and not machine.is_cpu
    own = config.training.batch_size // n_devices
    n_moments = {"sgd": 1}.get(config.optimizer.name, 2)

    def needs(n_sequences: int) -> Memory:
        return memory(
            shape,
            n_sequences=n_sequences,
            n_devices=n_devices,
            strategy=strategy,
            accumulates=n_sequences < own,
            activation_checkpointing=activation_checkpointing,
            half=half,
            is_cpu=machine.is_cpu,
            n_moments=n_moments,
        )

    # A twentieth is left to what nobody counts: the allocator's gaps, kernels, workspaces.
    usable = 0.95 * machine.memory
    size = min(own, config.training.micro_batch_size or own)
    size = largest_micro_batch_size(own, size)
    while size > 1 and needs(size).total > usable:
        size = largest_micro_batch_size(own, size - 1)
    need = needs(size)
    flops = step_flops(shape, config.training.batch_size, activation_checkpointing)
    compute_s = flops / n_devices / (machine.peak * machine.utilization)
    link = machine.link if n_devices <= machine.devices_per_node else machine.node_link
    sent = sent_bytes(n_parameters(shape), n_devices, strategy, half)
    if strategy == "fsdp":  # weights are gathered for each micro batch
        sent *= (2 * (own // size) + 1) / 3
    links_s = sent / link
    # DDP sends while the backward pass runs, two thirds of the products; FSDP in both.
    hidden = compute_s * (2 / 3 if strategy == "ddp" else 1)
    step_s = compute_s + max(0.0, links_s - hidden)
    fits = need.total <= usable
    bottleneck: Bottleneck = "memory" if not fits else "links" if links_s > hidden else "products"
    return Plan(
        strategy + (" + activation checkpointing" if activation_checkpointing else ""),
        size,
        own // size,
        need,
        fits,
        compute_s,
        links_s,
        step_s,
        bottleneck,
    )


def plans(config: RunConfig, shape: TransformerConfig, machine: Machine, n_devices: int) -> list[Plan]:
    """The ways there are, from the simplest on."""
    ways = [("ddp", False), ("ddp", True)]
    if n_devices > 1 and not machine.is_cpu:
        ways += [("fsdp", False), ("fsdp", True)]
    return [
        plan(config, shape, machine, n_devices, strategy, activation_checkpointing)
        for strategy, activation_checkpointing in ways
    ]
