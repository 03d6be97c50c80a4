"""Whether bfloat16 trains a model faster on this CPU. Some multiply it twice as fast as float32, others many times
slower, and with small matrices the conversions cost more than the products save. So it is tried.
"""

import math
import time
from itertools import count

import torch

from folio.models.blocks import Block
from folio.models.masks import AttentionMask
from folio.models.transformer_config import TransformerConfig

PROBE_S = 0.5
"""Time for a probe, without the first pass of each precision."""

MAX_TIME, MAX_TOKENS = 256, 1024
"""Limits of what the block reads: a large model, too, should take several turns."""

HOPELESS = 4.0
"""If bfloat16 takes so many times as long in its first pass, it does not get a second."""


def bfloat16_speedup(config: TransformerConfig, micro_batch_size: int) -> float:
    """Return how many times as fast one block trains in bf16-mixed as in 32-true.

    Both take turns, and the fastest pass of each counts: what delays a process is not its precision. The random state
    stays as it was.
    """
    length = min(config.context_length, MAX_TIME)
    n_rows = max(1, min(micro_batch_size, MAX_TOKENS // length))
    fastest = {False: math.inf, True: math.inf}
    with torch.random.fork_rng(devices=[]):
        block, hidden = Block(config), torch.randn(n_rows, length, config.d_model)
        deadline = math.inf
        for turn in count():
            for mixed in fastest:
                started = time.perf_counter()
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                    outputs = block(hidden, AttentionMask(is_causal=True))
                outputs.float().square().mean().backward()
                fastest[mixed] = min(fastest[mixed], time.perf_counter() - started)
            if turn == 0:  # which chooses kernels and takes memory
                if fastest[True] > HOPELESS * fastest[False]:
                    break
                fastest, deadline = dict.fromkeys(fastest, math.inf), time.perf_counter() + PROBE_S
            elif time.perf_counter() > deadline:
                break
    return fastest[False] / fastest[True]
