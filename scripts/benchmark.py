"""Speed, measured side by side: python scripts/benchmark.py [PART ...] [--rounds 5]

Each comparison alternates its two sides, A B A B ..., in one process, and quotes medians and their ratio, so that a
machine that slows down in between slows both.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import hydra
import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
import typer
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from folio.cli import one_line_errors, prepared_data, validate
from folio.config import RunConfig, check_alone, settle_vocabulary
from folio.data.batch import Batch
from folio.data.prepare import PreparedData
from folio.data.windows import gather_windows, random_starts
from folio.models import GPT, GPTConfig
from folio.training.devices import resolve_device
from folio.training.objectives import ChunkedCrossEntropy, batch_loss
from folio.training.optimizers import build_optimizer
from folio.training.run import Run, build_trainer
from folio.training.schedules import learning_rate

ROOT = Path(__file__).parent.parent

# nanoGPT's CPU recipe, whose short steps show an overhead best, for as many steps as give a steady median.
STEP_OVERRIDES = [
    "experiment=nanogpt_shakespeare_char_cpu",
    "training.max_steps=150",
    "schedule.warmup_steps=10",
    "callbacks.samples.max_new_tokens=0",
]


class Part(StrEnum):
    DATA = "data"
    LOSS = "loss"
    OVERHEAD = "overhead"
    STARTUP = "startup"


@dataclass(frozen=True)
class Result:
    """Times of two sides in milliseconds, one for each round."""

    part: str
    a: str
    b: str
    a_ms: list[float]
    b_ms: list[float]

    @property
    def ratio(self) -> float:
        """Median over the rounds of a / b: above 1, b is faster."""
        return statistics.median(a / b for a, b in zip(self.a_ms, self.b_ms, strict=True))


@one_line_errors
def main(
    parts: Annotated[list[Part] | None, typer.Argument(help="Which parts; all if none is named.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="An override of train.py for `overhead`; may be given again.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side is measured.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Write all times there as JSON.")] = None,
) -> None:
    """Time Folio against the plain way of doing the same."""
    measure: dict[Part, Callable[[], Result]] = {
        Part.DATA: lambda: data(rounds),
        Part.LOSS: lambda: loss(rounds),
        Part.OVERHEAD: lambda: overhead(*composed(STEP_OVERRIDES + (overrides or [])), rounds),
        Part.STARTUP: lambda: startup(rounds),
    }
    results = [measure[part]() for part in parts or list(Part)]
    Console().print(table(results))
    if output is not None:
        output.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")


def table(results: list[Result]) -> Table:
    shown = Table(title=f"medians of rounds, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for column in ("part", "A", "A ms", "B", "B ms", "A / B", "spread of A, B ms"):
        shown.add_column(column)
    for result in results:
        medians = statistics.median(result.a_ms), statistics.median(result.b_ms)
        spread = ", ".join(f"{min(times):.3g} to {max(times):.3g}" for times in (result.a_ms, result.b_ms))
        row = (result.part, result.a, f"{medians[0]:.3g}", result.b, f"{medians[1]:.3g}", f"{result.ratio:.2f}", spread)
        shown.add_row(*row)
    return shown


def alternate(
    part: str, rounds: int, a: tuple[str, Callable[[], object]], b: tuple[str, Callable[[], object]]
) -> Result:
    """Time a and b in turn, after one round that does not count."""
    times: dict[str, list[float]] = {a[0]: [], b[0]: []}
    for round_number in range(rounds + 1):
        for name, work in (a, b):
            started = time.perf_counter()
            work()
            if round_number:
                times[name].append(1e3 * (time.perf_counter() - started))
    return Result(part, a[0], b[0], times[a[0]], times[b[0]])


def data(rounds: int) -> Result:
    """A batch of 12 x 64: one gather, against a Python loop over the windows as in nanoGPT's get_batch."""
    n_repeats, context, batch = 200, 64, 12
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        np.zeros(300_000, dtype=np.uint16).tofile(path)
        tokens = np.memmap(path, dtype=np.uint16, mode="r")

        def loop() -> None:
            for step in range(n_repeats):
                starts = random_starts(len(tokens) - context, 0, step, batch)
                torch.stack([torch.from_numpy(tokens[i : i + context + 1].astype(np.int64)) for i in starts.tolist()])

        def gather() -> None:
            for step in range(n_repeats):
                starts = random_starts(len(tokens) - context, 0, step, batch)
                torch.from_numpy(gather_windows(tokens, starts, context))

        result = alternate(f"data x {n_repeats}", rounds, ("loop over windows", loop), ("one gather", gather))
    return result


def loss(rounds: int) -> Result:
    """The loss over GPT-2's vocabulary with its gradients: all logits at once, against chunks of them."""
    torch.manual_seed(0)
    hidden = torch.randn(768, 128, requires_grad=True)
    weight = (0.02 * torch.randn(50_257, 128)).requires_grad_()
    targets = torch.randint(0, 50_257, (768,))

    def both_gradients(value: Tensor) -> float:
        hidden.grad = weight.grad = None
        value.backward()
        return value.item()

    def plain() -> float:
        return both_gradients(F.cross_entropy(hidden @ weight.T, targets))

    def chunked() -> float:
        return both_gradients(ChunkedCrossEntropy.apply(hidden, weight, targets)[0])

    difference = abs(plain() - chunked())
    assert difference < 1e-4, f"the two losses are {difference} apart"
    return alternate("loss", rounds, ("plain", plain), ("chunked", chunked))


@dataclass(frozen=True)
class Steps:
    """Median time of a step, and the loss of the last one, by which two ways of doing it are known to agree."""

    median_ms: float
    last_loss: float


class Clock(Callback):
    """Notes when each step of a Lightning run ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.loss = torch.zeros(())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.ends.append(time.perf_counter())
        self.loss = outputs["loss"]


def overhead(config: RunConfig, prepared: PreparedData, rounds: int) -> Result:
    """A step of `train.py`, with its curves, progress and checkpoints, against the same step in a bare loop."""
    folio, bare = [], []
    for _ in range(rounds):
        folio.append(run_with_lightning(config, prepared))
        bare.append(run_bare(config, prepared))
        difference = abs(folio[-1].last_loss - bare[-1].last_loss)
        assert difference < 1e-4, f"the two losses are {difference} apart"
    name = f"step, {config.model.name}, {config.tokenizer.name}"
    return Result(name, "train.py", "bare loop", [s.median_ms for s in folio], [s.median_ms for s in bare])


def run_with_lightning(config: RunConfig, prepared: PreparedData) -> Steps:
    device, clock = resolve_device(config.trainer), Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, shape_of(config), prepared, device, Path(folder), n_parameters=0)
        trainer = build_trainer(config, device, run.loggers, [*run.callbacks(), clock])
        trainer.fit(run.module, run.datamodule)
    return Steps(median_ms(clock.ends), clock.loss.item())


def run_bare(config: RunConfig, prepared: PreparedData) -> Steps:
    """The same weights, batches, loss and optimizer in a loop of their own."""
    device, training = resolve_device(config.trainer), config.training
    context, tokens = config.model.context_length, prepared.train.tokens
    torch.manual_seed(config.seed)
    model = GPT(shape_of(config)).to(device.torch_device)
    optimizer = build_optimizer(model, config.optimizer, device.supports_fused_optimizer)
    ends = []
    for step in range(training.max_steps):
        starts = random_starts(len(tokens) - context, config.seed, step, training.batch_size)
        windows = torch.from_numpy(gather_windows(tokens, starts, context)).to(device.torch_device)
        with device.autocast():
            loss, _ = batch_loss(model, Batch(windows[:, :-1], windows[:, 1:], n_tokens=0))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip_norm or float("inf"))
        peak, d_model = config.optimizer.learning_rate, config.model.d_model
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.schedule, peak, training.max_steps, d_model)
        optimizer.step()
        ends.append(time.perf_counter())
    return Steps(median_ms(ends), loss.item())


def median_ms(ends: list[float]) -> float:
    """Median time between the ends of steps."""
    return 1e3 * float(np.median(np.diff(ends)))


def shape_of(config: RunConfig) -> GPTConfig:
    assert config.model.vocab_size is not None
    return config.transformer_config(config.model.vocab_size)


def composed(overrides: list[str]) -> tuple[RunConfig, PreparedData]:
    """A config as train.py would have it, and its data."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("train", overrides))
    config = validate(cast(dict[str, Any], values))
    check_alone(config)
    data = prepared_data(config)
    return settle_vocabulary(config, data.tokenizer.vocab_size), data


def startup(rounds: int) -> Result:
    """How long a misspelt key takes to be answered, against importing Lightning first."""

    def process(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], capture_output=True, cwd=ROOT, check=False)

    misspelt = process("train.py", "model.n_layer=3")
    return alternate("start", rounds, ("import lightning", process("-c", "import lightning")), ("misspelt", misspelt))


if __name__ == "__main__":
    typer.run(main)
