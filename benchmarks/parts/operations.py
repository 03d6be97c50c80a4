"""The parts `data` and `loss`: two implementations of one operation, in turn, in one process."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from folio.data.batches.order import random_indices
from folio.data.batches.windows import gather_windows
from folio.objectives.losses import ChunkedCrossEntropy
from folio.runtime.errors import FolioError

N_BATCHES = 200
CONTEXT, BATCH = 64, 12
ROWS, WIDTH, VOCABULARY = 768, 128, 50_257
TOLERANCE = 1e-4


def time_in_turn(
    part: str, subject: str, rounds: int, contenders: dict[str, Callable[[], object]], n_per_call: int = 1
) -> list[Series]:
    """Time the contenders in turn, after a warm-up round; `n_per_call` is how many operations one call does."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if number:
                times[name].append(1e3 * (time.perf_counter() - started) / n_per_call)
    return [Series(part, subject, name, "ms", values) for name, values in times.items()]


def measure_data(options: Options, report: BenchmarkReport) -> None:
    """Add the time of a batch: one gather, against a Python loop over the windows."""
    options.say("data")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        np.arange(300_000, dtype=np.uint16).tofile(path)
        tokens = np.memmap(path, dtype=np.uint16, mode="r")

        def loop(step: int) -> Tensor:
            starts = random_indices(len(tokens) - CONTEXT, 0, step, BATCH).tolist()
            return torch.stack([torch.from_numpy(tokens[i : i + CONTEXT + 1].astype(np.int64)) for i in starts])

        def gather(step: int) -> Tensor:
            starts = random_indices(len(tokens) - CONTEXT, 0, step, BATCH)
            return torch.from_numpy(gather_windows(tokens, starts, CONTEXT))

        if not torch.equal(loop(0), gather(0)):
            raise FolioError("data: the gather and the loop give different batches, so their times are not comparable")
        contenders: dict[str, Callable[[], object]] = {
            "one gather": lambda: [gather(step) for step in range(N_BATCHES)],
            "loop over windows": lambda: [loop(step) for step in range(N_BATCHES)],
        }
        report.series += time_in_turn("data", f"a batch of {BATCH} x {CONTEXT}", options.rounds, contenders, N_BATCHES)


def measure_loss(options: Options, report: BenchmarkReport) -> None:
    """Add the time of the loss over GPT-2's vocabulary, with gradients: in chunks, against all logits at once."""
    options.say("loss")
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    weight = (0.02 * torch.randn(VOCABULARY, WIDTH)).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (ROWS,))

    def backward(loss: Tensor) -> float:
        hidden.grad = weight.grad = None
        loss.backward()
        return loss.item()

    def at_once() -> float:
        return backward(F.cross_entropy(hidden @ weight.T, targets))

    def in_chunks() -> float:
        return backward(ChunkedCrossEntropy.apply(hidden, weight, None, targets)[0])

    if (difference := abs(at_once() - in_chunks())) > TOLERANCE:
        raise FolioError(f"loss: the two losses are {difference:.2g} apart, so their times are not comparable")
    subject = f"loss, {ROWS} x {WIDTH}, {VOCABULARY:,} symbols"
    contenders: dict[str, Callable[[], object]] = {"in chunks": in_chunks, "all logits at once": at_once}
    report.series += time_in_turn("loss", subject, options.rounds, contenders)
