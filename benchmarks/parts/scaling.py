"""The part `scaling`: time and memory of a training step, with one size at a time varied."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.contenders.process import scratch_folder, start_workers
from benchmarks.contenders.protocol import Command, WorkerSpec
from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from benchmarks.workloads import SAME_FUNCTION, size_overrides
from folio.config.run import RunConfig
from folio.data.token_file import FORMAT, LARGEST_HASHED_BYTES, TokenFileInfo, sidecar_path, token_dtype
from folio.runtime.files import sha256_of

BASE = (*SAME_FUNCTION, *size_overrides(layers=4, heads=4, d_model=256, context=64, batch=8, tokenizer="char"))
VOCABULARY = 1024
"""Vocabulary of the base: more rows than the 65 symbols need, so that a larger one changes nothing else."""

WARM_UP_STEPS = 2
BLOCK_STEPS = 3

CORPUS_STEPS = 20
"""Steps in a block while the corpus grows; each step touches other pages of the file."""


@dataclass(frozen=True)
class Axis:
    """A quantity and the sizes at which it is measured."""

    name: str
    unit: str
    sizes: tuple[int, ...]
    contender: str = "bare"
    """A bare loop shows the model alone; the corpus needs train.py, which reads it."""


AXES = (
    Axis("context", "tokens", (64, 128, 256, 512, 1024)),
    Axis("batch", "sequences", (4, 8, 16, 32)),
    Axis("vocabulary", "symbols", (1_024, 4_096, 16_384, 65_536)),
    Axis("depth", "layers", (1, 2, 4, 8, 16)),
    Axis("corpus", "bytes", (10**6, 10**8, 2 * 10**9, 2 * 10**10), contender="folio"),
)


def measure_scaling(options: Options, report: BenchmarkReport, axes: Sequence[Axis] = AXES) -> None:
    """Add the milliseconds and MiB of a step at every size of every axis."""
    config = options.compose([*BASE, *options.overrides])
    config = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": VOCABULARY})})
    for axis in axes:
        with scratch_folder() as folder:
            report.series += measure_axis(axis, config, options, folder)


def measure_axis(axis: Axis, config: RunConfig, options: Options, folder: Path) -> list[Series]:
    """Measure each size in its own process, because a peak of memory belongs to a process."""
    options.say(f"scaling: {axis.name}, starting {len(axis.sizes)} sizes")
    n_steps = CORPUS_STEPS if axis.name == "corpus" else BLOCK_STEPS
    with start_workers([spec_of(axis, size, config, options, folder) for size in axis.sizes]) as workers:
        for worker in workers:
            worker.ask(Command("steps", WARM_UP_STEPS))
        times: list[list[float]] = [[] for _ in workers]
        for number in range(options.rounds):
            options.say(f"scaling: {axis.name}, round {number + 1} of {options.rounds}")
            for worker, step_ms in zip(workers, times, strict=True):
                step_ms.append(1e3 * worker.ask(Command("steps", n_steps))["elapsed_s"] / n_steps)
        peaks = [worker.ask(Command("memory"))["peak_bytes"] / 2**20 for worker in workers]
        before = [worker.facts["rss_before_bytes"] / 2**20 for worker in workers]
    series = []
    for size, step_ms, peak, start in zip(axis.sizes, times, peaks, before, strict=True):
        facts = {"axis": axis.name, "size": size, "unit": axis.unit}
        label = f"{size:,} {axis.unit}"
        time, memory = f"{axis.name}: time", f"{axis.name}: memory"
        series.append(Series("scaling", time, label, "ms/step", step_ms, facts=facts))
        series.append(Series("scaling", memory, label, "MiB above the imports", [peak - start], facts=facts))
    return series


def spec_of(axis: Axis, size: int, config: RunConfig, options: Options, folder: Path) -> WorkerSpec:
    """Describe the contender with one size changed."""
    tokens = None
    if axis.name == "corpus":
        assert config.model.vocab_size is not None
        tokens = str(write_empty_tokens(folder / str(size) / "tokens.bin", size, config.model.vocab_size))
    elif axis.name == "batch":
        training = config.training.model_copy(update={"batch_size": size})
        config = config.model_copy(update={"training": training})
    else:
        field = {"context": "context_length", "vocabulary": "vocab_size", "depth": "n_layers"}[axis.name]
        config = config.model_copy(update={"model": config.model.model_copy(update={field: size})})
    return options.spec(config, folder / str(size), axis.contender, weights=None, tokens=tokens)


def write_empty_tokens(path: Path, n_bytes: int, vocab_size: int) -> Path:
    """Write a token file of zeros as a sparse file, which takes no disk space at any size. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = token_dtype(vocab_size)
    with path.open("wb") as file:
        file.truncate(n_bytes)
    # The hash of a larger file is never checked, and hashing 20 GB would take a minute.
    sha256 = sha256_of(path) if n_bytes <= LARGEST_HASHED_BYTES else ""
    info = TokenFileInfo(
        format=FORMAT,
        dtype=dtype,
        vocab_size=vocab_size,
        tokenizer="char",
        tokenizer_fingerprint="",
        split="train",
        n_tokens=n_bytes // np.dtype(dtype).itemsize,
        n_unknown=0,
        n_bytes=n_bytes,
        spelling_bits=0.0,
        source_sha256="",
        tokens_sha256=sha256,
    )
    sidecar_path(path).write_text(json.dumps(asdict(info)), encoding="utf-8")
    return path
