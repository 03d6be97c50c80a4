"""The part `scaling`: time and memory of a step against one size at a time."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.process import scratch_folder, workers
from benchmarks.contenders.protocol import Command, Spec
from benchmarks.options import Options
from benchmarks.report.results import Report, Series
from benchmarks.report.statistics import exponent
from benchmarks.workloads import SAME_FUNCTION, sizes
from folio.config.run import RunConfig
from folio.data.token_file import FORMAT, LARGEST_HASHED_BYTES, TokenFileInfo, sidecar_path, token_dtype
from folio.runtime.files import sha256_of

BASE = (*SAME_FUNCTION, *sizes(layers=4, heads=4, d_model=256, context=64, batch=8, tokenizer="char"))
VOCABULARY = 1024
"""Of the base: rows that the 65 symbols do not need, so that growing it changes nothing else."""

WARM_UP_STEPS = 2
BLOCK_STEPS = 3

CORPUS_STEPS = 20
"""Steps of a block while the corpus grows: each touches other pages of the file."""


@dataclass(frozen=True)
class Axis:
    name: str
    unit: str
    sizes: tuple[int, ...]
    side: str = "bare"
    """Whose steps: a bare loop shows the model alone. The corpus is read by the whole of train.py."""


AXES = (
    Axis("context", "tokens", (64, 128, 256, 512, 1024)),
    Axis("batch", "sequences", (4, 8, 16, 32)),
    Axis("vocabulary", "symbols", (1_024, 4_096, 16_384, 65_536)),
    Axis("depth", "layers", (1, 2, 4, 8, 16)),
    Axis("corpus", "bytes", (10**6, 10**8, 2 * 10**9, 2 * 10**10), side="folio"),
)


def measure_scaling(options: Options, report: Report, axes: Sequence[Axis] = AXES) -> None:
    """Add the milliseconds and the MiB of a step at every size of every axis."""
    config = options.compose([*BASE, *options.overrides])
    config = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": VOCABULARY})})
    for axis in axes:
        with scratch_folder() as folder:
            report.series += measure_axis(axis, config, options, folder)


def measure_axis(axis: Axis, config: RunConfig, options: Options, folder: Path) -> list[Series]:
    """A process for each size, in turn, for the peak of memory is a process's own."""
    options.say(f"scaling: {axis.name}, starting {len(axis.sizes)} sizes")
    n_steps = CORPUS_STEPS if axis.name == "corpus" else BLOCK_STEPS
    with workers([spec_of(axis, size, config, options, folder) for size in axis.sizes]) as sides:
        for worker in sides:
            worker.ask(Command("steps", WARM_UP_STEPS))
        times: list[list[float]] = [[] for _ in sides]
        for number in range(options.rounds):
            options.say(f"scaling: {axis.name}, round {number + 1} of {options.rounds}")
            for worker, own in zip(sides, times, strict=True):
                own.append(1e3 * worker.ask(Command("steps", n_steps))["elapsed_s"] / n_steps)
        peaks = [worker.ask(Command("memory"))["peak_bytes"] / 2**20 for worker in sides]
        before = [worker.facts["rss_before_bytes"] / 2**20 for worker in sides]
    series = []
    for size, own, peak, start in zip(axis.sizes, times, peaks, before, strict=True):
        facts = {"axis": axis.name, "size": size, "unit": axis.unit}
        side = f"{size:,} {axis.unit}"
        time, memory = f"{axis.name}: time", f"{axis.name}: memory"
        series.append(Series("scaling", time, side, "ms a step", own, facts=facts))
        series.append(Series("scaling", memory, side, "MiB over the start", [peak - start], facts=facts))
    return series


def spec_of(axis: Axis, size: int, config: RunConfig, options: Options, folder: Path) -> Spec:
    """The base with one size changed."""
    own = folder / str(size)
    if axis.name == "corpus":
        assert config.model.vocab_size is not None
        tokens = write_empty_tokens(own / "tokens.bin", size, config.model.vocab_size)
        return options.spec(config, own, axis.side, weights=None, tokens=str(tokens))
    if axis.name == "batch":
        training = config.training.model_copy(update={"batch_size": size})
        return options.spec(config.model_copy(update={"training": training}), own, axis.side, weights=None)
    field = {"context": "context_length", "vocabulary": "vocab_size", "depth": "n_layers"}[axis.name]
    model = config.model.model_copy(update={field: size})
    return options.spec(config.model_copy(update={"model": model}), own, axis.side, weights=None)


def write_empty_tokens(path: Path, n_bytes: int, vocab_size: int) -> Path:
    """A token file of zeros that takes no room on disk, whatever its size; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = token_dtype(vocab_size)
    with path.open("wb") as file:
        file.truncate(n_bytes)
    # Of larger files nobody checks the hash; reading 20 GB to have it would take a minute.
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


def exponents(report: Report) -> dict[str, float]:
    """Of each axis, for time and for memory: the p of size ** p, over medians."""
    return {group[0].subject: group_exponent(group) for group in report.of("scaling") if len(group) > 1}


def group_exponent(group: Sequence[Series]) -> float:
    sizes: list[Any] = [series.facts["size"] for series in group]
    return exponent(sizes, [series.median for series in group])
