"""The machine: what it is, and the part `hardware`, its fastest matrix products and copies."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from folio.distributed.peak_flops import KERNELS, SIZES, best_times, cpu_name, product_flop_per_s

COPIED_BYTES = 256 * 2**20
"""Far more than fits into a cache."""


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


def measure_hardware(options: Options, report: BenchmarkReport) -> None:
    """Add the fastest rates of matrix products and copies, which bound the speed of every training step."""
    rounds = options.rounds
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        sizes = SIZES[device]
        for name, dtype, kernels in KERNELS[device]:
            options.say(f"hardware: matrix products in {name} on the {device}")
            with kernels():
                rates = {size: gflop_per_s(size, dtype, device, rounds) for size in sizes}
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


def gflop_per_s(size: int, dtype: torch.dtype, device: str, rounds: int) -> list[float]:
    return [1e-9 * rate for rate in product_flop_per_s(size, dtype, device, rounds)]


def copy_gb_per_s(device: str, rounds: int) -> list[float]:
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return [2e-9 * COPIED_BYTES / seconds for seconds in best_times(lambda: target.copy_(source), device, rounds)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
