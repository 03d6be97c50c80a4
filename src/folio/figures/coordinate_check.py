"""Measure how much a few training steps change what a model computes, at several widths: the coordinate check.

In the maximal update parametrization, no change depends on the width. In the standard one they grow with it, so a wider
model needs a lower learning rate.

Source: Yang et al. 2022, "Tensor Programs V", appendix D.1.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from folio.config.optimizer import OptimizerConfig
from folio.models import GPT, TransformerConfig
from folio.models.blocks import Block
from folio.models.transformer_config import Parametrization
from folio.optim.optimizers import build_optimizer, set_learning_rate

PARTS = ("embeddings", "attention", "feed-forward", "logits")
"""The measured tensors: the input of the first block, what the last block's layers write, and the logits."""

N_STEPS = 4
LEARNING_RATE = 1e-3
"""Rate of all models, without warm-up: so low that the changes are nearly proportional to it."""
N_SEQUENCES, N_TOKENS, N_SYMBOLS = 8, 32, 64
N_HEADS = 4


@dataclass(frozen=True)
class CoordinateCheck:
    """The changes of one parametrization.

    Example:

        >>> CoordinateCheck("mup", (64, 128), {"logits": [[1.0, 2.0], [1.0, 4.0]]}).growth("logits")
        1.0
    """

    parametrization: Parametrization
    widths: tuple[int, ...]
    changes: dict[str, list[list[float]]]
    """For each of `PARTS`, a row for each width: the root mean square of the change since the start, step by step."""

    def growth(self, part: str) -> float:
        """Return the exponent p by which the change after the last step grows with the width, as in width^p."""
        logs = [
            (math.log(width), math.log(row[-1])) for width, row in zip(self.widths, self.changes[part], strict=True)
        ]
        return statistics.linear_regression(*zip(*logs, strict=True)).slope


def check_coordinates(
    parametrization: Parametrization, optimizer: OptimizerConfig, widths: Sequence[int], n_seeds: int = 3
) -> CoordinateCheck:
    """Train decoders of several widths for a few steps on one batch; the first width is mup's base.

    The changes are means over the initial weights of several seeds.
    """
    changes: dict[str, list[list[float]]] = {part: [] for part in PARTS}
    for width in widths:
        runs = [_changes_of(parametrization, optimizer, width, widths[0], seed) for seed in range(n_seeds)]
        for part in PARTS:
            changes[part].append(
                [statistics.fmean(values) for values in zip(*(run[part] for run in runs), strict=True)]
            )
    return CoordinateCheck(parametrization, tuple(widths), changes)


def _changes_of(
    parametrization: Parametrization, optimizer_config: OptimizerConfig, width: int, base: int, seed: int
) -> dict[str, list[float]]:
    mup = {} if parametrization == "standard" else {"parametrization": parametrization, "mup_base_d_model": base}
    sizes = {"context_length": N_TOKENS, "n_layers": 2, "n_heads": N_HEADS, "d_model": width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(TransformerConfig(vocab_size=N_SYMBOLS, **sizes, **mup))  # type: ignore[arg-type]
    optimizer = build_optimizer(model, optimizer_config, fused=False)
    set_learning_rate(optimizer, LEARNING_RATE)
    tokens, targets = _batch()
    before, changes = _activations(model, tokens), {part: list[float]() for part in PARTS}
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(end_dim=1), targets.flatten()).backward()
        optimizer.step()
        for part, values in _activations(model, tokens).items():
            changes[part].append((values - before[part]).square().mean().sqrt().item())
    return changes


def _batch() -> tuple[Tensor, Tensor]:
    """Return tokens and targets, (B, T) each: random symbols, with frequencies as different as those of a text."""
    generator = torch.Generator().manual_seed(0)
    frequencies = 1.0 / torch.arange(1, N_SYMBOLS + 1)
    drawn = torch.multinomial(frequencies, N_SEQUENCES * (N_TOKENS + 1), replacement=True, generator=generator)
    windows = drawn.view(N_SEQUENCES, N_TOKENS + 1)
    return windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def _activations(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    """Return what each of `PARTS` computes for the tokens."""
    last = model.blocks[-1]
    assert isinstance(last, Block)
    layers: tuple[nn.Module, ...] = (model.dropout, last.attention, last.feed_forward, model.output)
    found: dict[str, Tensor] = {}

    def record(part: str) -> Callable[..., None]:
        return lambda layer, inputs, output: found.update({part: output})

    hooks = [layer.register_forward_hook(record(part)) for part, layer in zip(PARTS, layers, strict=True)]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return found
