"""The precision of `trainer.precision=auto` on a CPU. Some CPUs multiply bfloat16 twice as fast as float32, others many
times slower, and with small matrices the conversions cost more than the products save. So it is tried.
"""

import math
import time
import warnings
from dataclasses import replace

import torch

from folio.config.run import RunConfig
from folio.distributed.devices import Device
from folio.models.blocks import Block
from folio.models.masks import AttentionMask
from folio.models.transformer_config import TransformerConfig

MIN_WIDTH = 256
"""Width below which bfloat16 gains too little to be worth a probe: at d_model 128, 0.89 to 1.06 of the speed."""

MIN_SPEEDUP = 1.25
"""Where bfloat16 is in the CPU it is more, and where it is emulated much less: the noise of a probe rarely decides."""

PROBE_S = 0.5
"""Time for a probe, without the first pass of each precision."""

MAX_TIME, MAX_TOKENS = 256, 1024
"""Limits of what the block reads: a large model, too, should take several turns."""

MIXED_RMS_NORM = ".*Mismatch dtype between input and weight.*"
"""torch's remark that an RMS norm of bfloat16 with float32 weights has no kernel of its own."""

HOPELESS = 4.0
"""If bfloat16 takes so many times as long in its first pass, it does not get a second."""


def with_probed_precision(device: Device, config: RunConfig, model_config: TransformerConfig) -> Device:
    """Return the device in bf16-mixed if the config leaves the choice, and a probe finds that faster on this CPU.

    Not in deterministic mode, which lets no time decide, and not with several processes, which might disagree.
    """
    is_free = config.trainer.precision == "auto" and device.accelerator == "cpu" and not config.deterministic
    if not is_free or config.trainer.n_processes > 1 or model_config.d_model < MIN_WIDTH:
        return device
    speedup = bfloat16_speedup(model_config, config.micro_batch_size)
    return replace(device, precision="bf16-mixed") if speedup >= MIN_SPEEDUP else device


def bfloat16_speedup(config: TransformerConfig, micro_batch_size: int) -> float:
    """Return how many times as fast one block trains in bf16-mixed as in 32-true.

    Both take turns, and the fastest pass of each counts: what delays a process is not its precision. The random state
    stays as it was.
    """
    length = min(config.context_length, MAX_TIME)
    n_rows = max(1, min(micro_batch_size, MAX_TOKENS // length))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MIXED_RMS_NORM)
        block, hidden = Block(config), torch.randn(n_rows, length, config.d_model)

        def pass_s(*, mixed: bool) -> float:
            started = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                outputs = block(hidden, AttentionMask(is_causal=True))
            outputs.float().square().mean().backward()
            return time.perf_counter() - started

        plain_s, mixed_s = pass_s(mixed=False), pass_s(mixed=True)  # which choose kernels and take memory
        if mixed_s > HOPELESS * plain_s:
            return plain_s / mixed_s
        plain_s = mixed_s = math.inf
        deadline = time.perf_counter() + PROBE_S
        while math.isinf(mixed_s) or time.perf_counter() < deadline:
            plain_s, mixed_s = min(plain_s, pass_s(mixed=False)), min(mixed_s, pass_s(mixed=True))
    return plain_s / mixed_s
