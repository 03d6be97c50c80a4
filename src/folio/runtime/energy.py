"""The energy that this machine's meters count: RAPL of CPUs, and NVML of NVIDIA GPUs. Imports nothing slow.

Most machines tell nobody but root about RAPL, and virtual machines have no meters; then there is no figure.
"""

import importlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from folio.runtime.untrusted import UntrustedFileError, read_text

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the meters of CPUs. Source: Linux, Documentation/power/powercap/powercap.rst."""


class RaplZone:
    """A counter of microjoules that starts again from 0 after `wraps_at`, some minutes or hours later.

    Raises: OSError, ValueError if it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._wraps_at = int(read_text(folder / "max_energy_range_uj"))
        self._last = int(read_text(self._file))
        self._joules = 0.0

    def joules(self) -> float:
        """Return the energy since this object was made. Call it at least once before the counter wraps twice."""
        now = int(read_text(self._file))
        delta = now - self._last
        self._joules += (delta if delta >= 0 else delta + self._wraps_at) / 1e6
        self._last = now
        return self._joules


class NvmlGpu:
    """The counter of millijoules of an NVIDIA GPU (Volta or newer), since its driver was loaded.

    Raises: ImportError without the package nvidia-ml-py, and pynvml.NVMLError.
    """

    def __init__(self, uuid: str) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        self._first = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def joules(self) -> float:
        """Return the energy since this object was made."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._first) / 1e3


class EnergyMeter:
    """Adds up the counters that this process is responsible for, each of which counts whatever its chip does."""

    def __init__(self, meters: dict[str, RaplZone | NvmlGpu]) -> None:
        self._meters = meters
        self.sources = sorted(meters)
        """Name of the part whose energy is counted, such as package-0."""

    def joules(self) -> float | None:
        """Return the energy since the meter was made; None if a counter is missing or has stopped answering."""
        if not self._meters:
            return None
        try:
            return sum(meter.joules() for meter in self._meters.values())
        except Exception:  # sysfs and NVML raise anything, and no run ends because of its figures
            self._meters = {}
            return None


def find_meter(*, cpus: bool, gpu_uuid: str | None = None, powercap: Path = POWERCAP) -> EnergyMeter:
    """Return a meter of this machine's CPUs with their memory, and of a GPU, as far as they can be read.

    A meter without its GPU would miss most of the energy, so there are no counters if that of a wanted GPU is missing.
    """
    meters: dict[str, RaplZone | NvmlGpu] = {}
    if gpu_uuid is not None:
        try:
            meters["GPU"] = NvmlGpu(gpu_uuid)
        except Exception:  # no package, no driver, no such counter
            return EnergyMeter({})
    if cpus:
        meters |= rapl_zones(powercap)
    return EnergyMeter(meters)


def rapl_zones(powercap: Path = POWERCAP) -> dict[str, RaplZone]:
    """Return the counters of CPU packages and of their memory, which no package includes.

    The zones intel-rapl:0 and intel-rapl:0:1 are also those of AMD's CPUs. Others count the same energy again: psys
    that of the platform, intel-rapl-mmio:0 that of a package, core and uncore parts of it.
    """
    zones: dict[str, RaplZone] = {}
    for folder in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError, UntrustedFileError):
            name = read_text(folder / "name").strip()
            if name.startswith("package-") or name == "dram":
                zones[name if name != "dram" else f"dram of {folder.name}"] = RaplZone(folder)
    return zones
