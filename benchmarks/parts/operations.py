"""The parts `data` and `loss`: two ways to one result, in turn in one process."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report.results import Series
from folio.data.batches.windows import gather_windows, random_starts
from folio.objectives.losses import ChunkedCrossEntropy
from folio.runtime.errors import FolioError

N_BATCHES = 200
CONTEXT, BATCH = 64, 12
ROWS, WIDTH, VOCABULARY = 768, 128, 50_257
TOLERANCE = 1e-4


def alternate(
    part: str, subject: str, rounds: int, sides: dict[str, Callable[[], object]], per: int = 1
) -> list[Series]:
    """Time the sides in turn, after one round that does not count; `per` is how many things one call does."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            started = time.perf_counter()
            work()
            if number:
                times[name].append(1e3 * (time.perf_counter() - started) / per)
    return [Series(part, subject, name, "ms", values) for name, values in times.items()]


def data(rounds: int) -> list[Series]:
    """A batch: one gather, against a Python loop over the windows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        np.arange(300_000, dtype=np.uint16).tofile(path)
        tokens = np.memmap(path, dtype=np.uint16, mode="r")

        def looped(step: int) -> Tensor:
            starts = random_starts(len(tokens) - CONTEXT, 0, step, BATCH).tolist()
            return torch.stack([torch.from_numpy(tokens[i : i + CONTEXT + 1].astype(np.int64)) for i in starts])

        def gathered(step: int) -> Tensor:
            starts = random_starts(len(tokens) - CONTEXT, 0, step, BATCH)
            return torch.from_numpy(gather_windows(tokens, starts, CONTEXT))

        if not torch.equal(looped(0), gathered(0)):
            raise FolioError("data: the gather and the loop give different batches, so their times are no comparison")
        sides: dict[str, Callable[[], object]] = {
            "one gather": lambda: [gathered(step) for step in range(N_BATCHES)],
            "loop over windows": lambda: [looped(step) for step in range(N_BATCHES)],
        }
        return alternate("data", f"a batch of {BATCH} x {CONTEXT}", rounds, sides, per=N_BATCHES)


def loss(rounds: int) -> list[Series]:
    """The loss over GPT-2's vocabulary with its gradients: chunks of the logits, against all at once."""
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    weight = (0.02 * torch.randn(VOCABULARY, WIDTH)).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (ROWS,))

    def both_gradients(value: Tensor) -> float:
        hidden.grad = weight.grad = None
        value.backward()
        return value.item()

    def plain() -> float:
        return both_gradients(F.cross_entropy(hidden @ weight.T, targets))

    def chunked() -> float:
        return both_gradients(ChunkedCrossEntropy.apply(hidden, weight, targets)[0])

    if (difference := abs(plain() - chunked())) > TOLERANCE:
        raise FolioError(f"loss: the two losses are {difference:.2g} apart, so their times are no comparison")
    subject = f"loss, {ROWS} x {WIDTH}, {VOCABULARY:,} symbols"
    return alternate("loss", subject, rounds, {"in chunks": chunked, "all logits at once": plain})
