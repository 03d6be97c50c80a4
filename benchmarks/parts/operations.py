"""The parts `data`, `loss` and `layers`: two implementations of one operation, in turn, in one process."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from folio.data.batches.order import random_indices
from folio.data.batches.windows import gather_windows
from folio.models.cpu_elementwise import Dropout, RMSNorm
from folio.models.masks import causal_mask
from folio.models.window_attention import window_attention
from folio.objectives.losses import ChunkedCrossEntropy
from folio.runtime.errors import FolioError

N_BATCHES = 200
N_CALLS = 50
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


def measure_layers(options: Options, report: BenchmarkReport) -> None:
    """Add the times of dropout, the RMS norm and attention windows, with gradients: Folio's against torch's."""
    options.say("layers")
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    norm, torch_norm = RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)
    compare_layers("dropout", (hidden,), Dropout(0.1), nn.Dropout(0.1), options, report, is_random=True)
    compare_layers("RMS norm", (hidden,), norm, torch_norm, options, report)
    for batch, heads, context, width, window in ((3, 4, 256, 32, 64), (1, 12, 1024, 64, 128)):
        q, k, v = (torch.randn(batch, context, heads, width).transpose(1, 2).requires_grad_() for _ in range(3))
        mask = causal_mask(context, context).triu(1 - window)

        def windows(q: Tensor, k: Tensor, v: Tensor, window: int = window) -> Tensor:
            return window_attention(q, k, v, window)

        def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor = mask) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, mask)

        name = f"attention, {batch} x {heads} heads of {width}, windows of {window} in {context}"
        compare_layers(name, (q, k, v), windows, masked, options, report)


def compare_layers(
    name: str,
    inputs: tuple[Tensor, ...],
    ours: Callable[..., Tensor],
    torchs: Callable[..., Tensor],
    options: Options,
    report: BenchmarkReport,
    *,
    is_random: bool = False,
) -> None:
    """Add the times of two layers, with the gradients of their inputs, which must be the same if none is random."""

    def run(layer: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        output = layer(*inputs)
        return torch.autograd.grad(output, inputs, output.detach())

    if not is_random:
        for gradient, other in zip(run(ours), run(torchs), strict=True):
            if (difference := float((gradient - other).abs().max())) > TOLERANCE:
                raise FolioError(f"{name}: gradients are {difference:.2g} apart, so the times are not comparable")
    contenders: dict[str, Callable[[], object]] = {
        "Folio": lambda: [run(ours) for _ in range(N_CALLS)],
        "torch": lambda: [run(torchs) for _ in range(N_CALLS)],
    }
    report.series += time_in_turn("layers", name, options.rounds, contenders, N_CALLS)
