"""The machine: what it is, and the part `hardware`, its fastest matrix products and copies."""

import datetime
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from folio.models.cpu_linear import onednn_matmul

CPU_SIZES = (512, 1024, 2048)
GPU_SIZES = (4096, 8192)
"""Sizes of the square matrices; machines differ in the size at which they are fastest."""

KERNELS: dict[str, list[tuple[str, torch.dtype, Callable[[], AbstractContextManager[object]]]]] = {
    "cpu": [
        ("fp32", torch.float32, nullcontext),
        ("fp32 by oneDNN", torch.float32, onednn_matmul),
        ("bf16", torch.bfloat16, nullcontext),
    ],
    "cuda": [("fp32", torch.float32, nullcontext), ("bf16", torch.bfloat16, nullcontext)],
}
"""Name, dtype, and the context manager that selects the kernels."""

COPIED_BYTES = 256 * 2**20
"""Far more than fits into a cache."""

REPEATS = 5
MIN_TIMED_S = 0.05


def describe_machine(threads: int | None) -> dict[str, Any]:
    """Return what a reader needs to know about the machine and its software."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": {name: found for name in ("lightning", "numpy", "transformers") if (found := _version(name))},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """Return the model name of the CPU."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def measure_hardware(options: Options, report: BenchmarkReport) -> None:
    """Add the fastest rates of matrix products and copies, which bound the speed of every training step."""
    rounds = options.rounds
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        sizes = GPU_SIZES if device == "cuda" else CPU_SIZES
        for name, dtype, kernels in KERNELS[device]:
            options.say(f"hardware: matrix products in {name} on the {device}")
            with kernels():
                rates = {size: product_gflop_per_s(size, dtype, device, rounds) for size in sizes}
            fastest = max(sizes, key=lambda size: max(rates[size]))
            best = max(rates[fastest])
            note = f"best {best:,.0f}, with {fastest} x {fastest}"
            facts = {"by_size": {str(size): values for size, values in rates.items()}, "best": best}
            subject = f"matrix product, {name}"
            report.series.append(Series("hardware", subject, device, "GFLOP/s", rates[fastest], note, facts))
        options.say(f"hardware: copying on the {device}")
        values = copy_gb_per_s(device, rounds)
        note = "bytes read plus bytes written"
        report.series.append(Series("hardware", "copying", device, "GB/s", values, note, {"best": max(values)}))


def product_gflop_per_s(size: int, dtype: torch.dtype, device: str, rounds: int) -> list[float]:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return [2e-9 * size**3 / seconds for seconds in best_times(lambda: torch.mm(a, b, out=out), device, rounds)]


def copy_gb_per_s(device: str, rounds: int) -> list[float]:
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return [2e-9 * COPIED_BYTES / seconds for seconds in best_times(lambda: target.copy_(source), device, rounds)]


def best_times(function: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Return the seconds of one call, the best of REPEATS in each round. Calls too short to time are timed together."""
    clock = gpu_seconds if device == "cuda" else cpu_seconds
    clock(function, 1)
    n_calls = max(1, int(MIN_TIMED_S / max(clock(function, 1), 1e-7)))
    return [min(clock(function, n_calls) / n_calls for _ in range(REPEATS)) for _ in range(rounds)]


def cpu_seconds(function: Callable[[], object], n_calls: int) -> float:
    started = time.perf_counter()
    for _ in range(n_calls):
        function()
    return time.perf_counter() - started


def gpu_seconds(function: Callable[[], object], n_calls: int) -> float:
    """Return the seconds by the GPU's own clock."""
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    started.record()
    for _ in range(n_calls):
        function()
    ended.record()
    torch.cuda.synchronize()
    return started.elapsed_time(ended) / 1e3


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
