"""Noise in the input of a language model."""

import numpy as np
import torch

from folio.data.batches.noise import TokenNoise
from folio.data.batches.order import MicroBatch
from folio.data.batches.windows import TrainingWindows

N_SYMBOLS, CONTEXT = 50, 32
TOKENS = np.random.default_rng(0).integers(0, N_SYMBOLS, 5_000)
STARTS = np.arange(0, 4_800, 24)
NOISE = TokenNoise(rate=0.2, n_symbols=N_SYMBOLS, seed=3)


def draw(step: int, rows: slice = slice(None)) -> MicroBatch:
    return MicroBatch(step=step, batch_indices=STARTS, rows=rows)


def test_a_share_of_the_input_is_replaced_and_no_target() -> None:
    plain = TrainingWindows(TOKENS, CONTEXT).batch(draw(0))
    noisy = TrainingWindows(TOKENS, CONTEXT, noise=NOISE).batch(draw(0))
    assert torch.equal(noisy.targets, plain.targets)
    # 200 windows of 32 tokens: a fiftieth of the replacements is the same symbol; four standard deviations are 0.02.
    assert abs((noisy.tokens != plain.tokens).float().mean().item() - 0.2 * 0.98) < 0.02
    replacements = torch.bincount(noisy.tokens[noisy.tokens != plain.tokens], minlength=N_SYMBOLS)
    assert replacements.min() > 0
    assert len(replacements) == N_SYMBOLS


def test_noise_depends_on_the_step_and_the_place_in_the_global_batch_alone() -> None:
    """So a resumed run reads the same, at any number of processes and micro-batches."""
    windows = TrainingWindows(TOKENS, CONTEXT, noise=NOISE)
    whole = windows.batch(draw(7)).tokens
    parts = [windows.batch(draw(7, slice(first, first + 50))).tokens for first in range(0, 200, 50)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(windows.batch(draw(8)).tokens, whole)
