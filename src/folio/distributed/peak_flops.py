"""The fastest matrix products of a device, which bound the speed of training.

The peak of a CPU is measured, once for each number of threads and each precision, and kept in the user's cache folder.
GPUs with matrix units are known by their names; those that are not are measured, too.
"""

import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeGuard

import torch

from folio.distributed.devices import Device
from folio.models.cpu_linear import onednn_matmul
from folio.runtime.cpus import other_load
from folio.runtime.errors import FolioError
from folio.runtime.files import write_json
from folio.runtime.untrusted import read_json_object, read_text

KNOWN_GPUS: dict[str, float] = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 154.8e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "V100-SXM2": 125e12,
    "V100-PCIE": 112e12,
    "T4": 65e12,
}
"""Peak FLOPs per second in bfloat16 or float16, summed in float32, without sparsity, by words of the device's name.

Source: NVIDIA's data sheets. The first entry that is part of a name counts, so the longer names come first.
"""

KERNELS: dict[str, list[tuple[str, torch.dtype, Callable[[], AbstractContextManager[object]]]]] = {
    "cpu": [
        ("fp32", torch.float32, nullcontext),
        ("fp32 by oneDNN", torch.float32, onednn_matmul),
        ("bf16", torch.bfloat16, nullcontext),
    ],
    "cuda": [
        ("fp32", torch.float32, nullcontext),
        ("bf16", torch.bfloat16, nullcontext),
        ("fp16", torch.float16, nullcontext),
    ],
    "mps": [
        ("fp32", torch.float32, nullcontext),
        ("bf16", torch.bfloat16, nullcontext),
        ("fp16", torch.float16, nullcontext),
    ],
}
"""Name, dtype, and the context manager that selects the kernels."""

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192), "mps": (1024, 2048, 4096)}
"""Sizes of the square matrices; machines differ in the size at which they are fastest."""

REPEATS = 5
MIN_TIMED_S = 0.02

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The dtype of matrix products by Lightning's name of the precision."""

QUIETER = 0.5
"""Threads by which the load must have fallen since a measurement for it to be repeated."""


def peak_flop_per_s(device: Device, cache: Path | None = None) -> float:
    """Return the peak FLOPs per second of matrix products on a device, in the precision of a run.

    A measurement takes half a second. A busy machine measures too little; so the cache holds the load of other
    programs as well, and a run that finds the machine quieter measures again. The higher figure is kept.

    Args:
        cache: the file of measured peaks; by default the user's. If it cannot be read or written, nothing is kept.
    """
    if device.precision != "32-true" and (known := known_gpu(device.name)) is not None:
        return known
    cache = user_cache() / "folio" / "peak_flops.json" if cache is None else cache
    name = cpu_name() if device.accelerator == "cpu" else device.name
    threads = f", {device.n_threads} threads" if device.accelerator == "cpu" else ""
    key = f"{name}{threads}, {device.precision}, torch {torch.__version__}"
    stored, load = read_peaks(cache), other_load()
    best, load_then = stored.get(key, (0.0, math.inf))
    if load_then - load < QUIETER:
        return best
    best = max(best, measure_peak(device.torch_device.type, DTYPES[device.precision]))
    values = {name: {"flop_per_s": peak, "load": then} for name, (peak, then) in {**stored, key: (best, load)}.items()}
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, values)
    return best


def known_gpu(name: str) -> float | None:
    """Return the peak of a GPU in 16 bits; None if its name is not known."""
    words = name.replace("-", " ").split()
    for known, peak in KNOWN_GPUS.items():
        parts = known.replace("-", " ").split()
        if any(words[start : start + len(parts)] == parts for start in range(len(words))):
            return peak
    return None


def read_peaks(cache: Path) -> dict[str, tuple[float, float]]:
    """Return peak and load by key. Whatever is no such pair is left out."""
    try:
        values = read_json_object(cache)
    except (OSError, FolioError):
        return {}
    peaks: dict[str, tuple[float, float]] = {}
    for key, value in values.items():
        peak, load = (value.get("flop_per_s"), value.get("load")) if isinstance(value, dict) else (None, None)
        if _is_number(peak, 1.0) and _is_number(load, 0.0):
            peaks[key] = peak, load
    return peaks


def _is_number(value: Any, least: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < 1e21


def user_cache() -> Path:
    """Return the user's folder for files that can be made again. Source: XDG Base Directory Specification."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~")) / ".cache"


def measure_peak(kind: str, dtype: torch.dtype) -> float:
    """Return the best FLOPs per second of any kernel and size. Larger matrices are tried while they are faster."""
    peak = 0.0
    for _, kernel_dtype, kernels in KERNELS[kind]:
        if kernel_dtype != dtype:
            continue
        best = 0.0
        for size in SIZES[kind]:
            with kernels():
                rate = product_flop_per_s(size, dtype, kind)[0]
            if rate < 1.02 * best:
                break
            best = rate
        peak = max(peak, best)
    return peak


def product_flop_per_s(size: int, dtype: torch.dtype, kind: str, rounds: int = 1) -> list[float]:
    """Return the FLOPs per second of products of square matrices, the best of REPEATS in each round.

    The matrices are random, because GPUs multiply zeros faster. The generator of a run is not used.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(kind, dtype) for _ in range(2))
    out = torch.empty_like(a)
    return [2 * size**3 / seconds for seconds in best_times(lambda: torch.mm(a, b, out=out), kind, rounds)]


def best_times(function: Callable[[], object], kind: str, rounds: int) -> list[float]:
    """Return the seconds of one call, the best of REPEATS in each round. Calls too short to time are timed together."""
    clock = {"cpu": cpu_seconds, "cuda": cuda_seconds, "mps": mps_seconds}[kind]
    clock(function, 1)
    n_calls = max(1, int(MIN_TIMED_S / max(clock(function, 1), 1e-7)))
    return [min(clock(function, n_calls) / n_calls for _ in range(REPEATS)) for _ in range(rounds)]


def cpu_seconds(function: Callable[[], object], n_calls: int) -> float:
    started = time.perf_counter()
    for _ in range(n_calls):
        function()
    return time.perf_counter() - started


def cuda_seconds(function: Callable[[], object], n_calls: int) -> float:
    """Return the seconds by the GPU's own clock."""
    started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    started.record()
    for _ in range(n_calls):
        function()
    ended.record()
    torch.cuda.synchronize()
    return started.elapsed_time(ended) / 1e3


def mps_seconds(function: Callable[[], object], n_calls: int) -> float:
    def call_and_wait() -> None:
        for _ in range(n_calls):
            function()
        torch.mps.synchronize()

    torch.mps.synchronize()
    return cpu_seconds(call_and_wait, 1)


def cpu_name() -> str:
    """Return the model name of the CPU."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in read_text(file, errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
