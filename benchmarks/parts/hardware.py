"""The machine: what it is, and the part `hardware`, what it can do at most."""

import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.report.results import Series
from folio.models.cpu_linear import onednn_products

CPU_SIZES = (512, 1024, 2048)
GPU_SIZES = (4096, 8192)
"""Of square matrices; a machine's best is not at the same size everywhere."""

PRODUCTS: dict[str, list[tuple[str, torch.dtype, Callable[[], AbstractContextManager[object]]]]] = {
    "cpu": [
        ("fp32", torch.float32, nullcontext),
        ("fp32 by oneDNN", torch.float32, onednn_products),
        ("bf16", torch.bfloat16, nullcontext),
    ],
    "cuda": [("fp32", torch.float32, nullcontext), ("bf16", torch.bfloat16, nullcontext)],
}
"""Kernels are chosen by a context."""

COPIED_BYTES = 256 * 2**20
"""Far more than a cache holds."""

REPEATS = 5
MIN_TIMED_S = 0.05


def describe_machine(threads: int | None) -> dict[str, Any]:
    """What a reader has to know of the machine and its software."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpu": gpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": {name: found for name in ("lightning", "numpy", "transformers") if (found := _version(name))},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """As people know it."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def hardware(rounds: int, say: Callable[[str], None]) -> list[Series]:
    """Matrix products and copying, as fast as they go: what no program's step can be faster than."""
    series = []
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        sizes = GPU_SIZES if device == "cuda" else CPU_SIZES
        for name, dtype, kernels in PRODUCTS[device]:
            say(f"hardware: products in {name} on the {device}")
            with kernels():
                rates = {size: product_gflop_per_s(size, dtype, device, rounds) for size in sizes}
            best = max(sizes, key=lambda size: max(rates[size]))
            note = f"best {max(rates[best]):,.0f} with {best} x {best}"
            subject = f"matrix product, {name}"
            facts = {"by_size": {str(size): values for size, values in rates.items()}, "best": max(rates[best])}
            series.append(Series("hardware", subject, device, "GFLOP/s", rates[best], note, facts))
        say(f"hardware: copying on the {device}")
        values = copy_gb_per_s(device, rounds)
        note = "read and written bytes together"
        series.append(Series("hardware", "copying", device, "GB/s", values, note, {"best": max(values)}))
    return series


def peak_gflop_per_s(series: Sequence[Series], device: str, precision: str) -> float | None:
    """The best that `hardware` found for products of one precision, by whatever kernels."""
    kind = f"matrix product, {precision}"
    return max((s.facts["best"] for s in series if s.subject.startswith(kind) and s.side == device), default=None)


def product_gflop_per_s(size: int, dtype: torch.dtype, device: str, rounds: int) -> list[float]:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return [2e-9 * size**3 / seconds for seconds in best_times(lambda: torch.mm(a, b, out=out), device, rounds)]


def copy_gb_per_s(device: str, rounds: int) -> list[float]:
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return [2e-9 * COPIED_BYTES / seconds for seconds in best_times(lambda: target.copy_(source), device, rounds)]


def best_times(work: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Seconds of one call, the best of REPEATS in each round; as many calls together as can be timed."""
    clock = gpu_seconds if device == "cuda" else cpu_seconds
    clock(work, 1)
    n_calls = max(1, int(MIN_TIMED_S / max(clock(work, 1), 1e-7)))
    return [min(clock(work, n_calls) / n_calls for _ in range(REPEATS)) for _ in range(rounds)]


def cpu_seconds(work: Callable[[], object], n_calls: int) -> float:
    started = time.perf_counter()
    for _ in range(n_calls):
        work()
    return time.perf_counter() - started


def gpu_seconds(work: Callable[[], object], n_calls: int) -> float:
    """By the GPU's own clock."""
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    started.record()
    for _ in range(n_calls):
        work()
    ended.record()
    torch.cuda.synchronize()
    return started.elapsed_time(ended) / 1e3


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
