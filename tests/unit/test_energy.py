"""Energy is measured where a machine tells it, and shown nowhere else."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_trainer import fake_trainer

from folio.runtime import energy
from folio.runtime.energy import RaplZone, find_meter, rapl_zones
from folio.training.callbacks import throughput
from folio.training.callbacks.throughput import Throughput
from folio.training.results import format_energy

Write = Callable[[str, int], None]
MODULE: Any = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """A machine with two packages, as Linux shows one: most zones count what another one counts as well."""
    zones = {
        "intel-rapl": None,  # the control type itself
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
        "dtpm": None,
    }
    for folder, name in zones.items():
        (tmp_path / folder).mkdir()
        if name is not None:
            (tmp_path / folder / "name").write_text(f"{name}\n")
            (tmp_path / folder / "max_energy_range_uj").write_text("1000000000\n")
            (tmp_path / folder / "energy_uj").write_text("0\n")
    return tmp_path


@pytest.fixture
def write(powercap: Path) -> Write:
    """Set the counter of a zone: write("intel-rapl:0", joules)."""
    return lambda zone, joules: (powercap / zone / "energy_uj").write_text(f"{joules * 10**6}\n") and None


def test_packages_and_memory_are_added_up_and_nothing_twice(powercap: Path, write: Write) -> None:
    assert sorted(rapl_zones(powercap)) == ["dram of intel-rapl:0:1", "package-0", "package-1"]
    meter = find_meter(cpus=True, powercap=powercap)
    for number, zone in enumerate(sorted(path.parent.name for path in powercap.glob("*/energy_uj"))):
        write(zone, 10**number)
    zones = sorted(path.parent.name for path in powercap.glob("*/energy_uj"))
    counted = ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1")
    assert meter.joules() == sum(10**number for number, zone in enumerate(zones) if zone in counted)


def test_a_counter_that_starts_again_from_0_loses_nothing(powercap: Path, write: Write) -> None:
    write("intel-rapl:0", 900)
    zone = RaplZone(powercap / "intel-rapl:0")
    write("intel-rapl:0", 950)
    assert zone.joules() == 50
    write("intel-rapl:0", 20)  # at 1,000 it was 0 again
    assert zone.joules() == 120
    assert zone.joules() == 120


@pytest.mark.parametrize("content", ["", "many", None])
def test_a_machine_that_does_not_tell_has_no_energy(content: str | None, powercap: Path) -> None:
    """Since Linux 5.10 only root may read the counters; a virtual machine has none."""
    for file in powercap.glob("*/energy_uj"):
        file.unlink()
        if content is not None:
            file.write_text(content)
    assert find_meter(cpus=True, powercap=powercap).joules() is None
    assert find_meter(cpus=True, powercap=powercap / "absent").joules() is None


def test_a_counter_that_stops_answering_makes_the_energy_unknown(powercap: Path, write: Write) -> None:
    meter = find_meter(cpus=True, powercap=powercap)
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.joules() is None
    write("intel-rapl:1", 5)
    assert meter.joules() is None


def test_a_gpu_counts_by_nvml_and_without_nvml_nothing_counts(
    powercap: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the CPUs use beside a GPU says little about a run."""
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    assert find_meter(cpus=True, gpu_uuid="GPU-1", powercap=powercap).joules() is None
    millijoules = [5000, 7500]
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-1": "handle"}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules.pop(0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = find_meter(cpus=True, gpu_uuid="GPU-1", powercap=powercap)
    write("intel-rapl:0", 40)
    assert meter.joules() == 42.5
    assert meter.sources == ["GPU", "dram of intel-rapl:0:1", "package-0", "package-1"]
    assert find_meter(cpus=False, gpu_uuid="GPU-2", powercap=powercap).joules() is None


def test_a_run_has_the_energy_of_all_its_parts(powercap: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "find_meter", lambda **options: energy.find_meter(**options, powercap=powercap))
    first = Throughput()
    first.on_train_start(fake_trainer(), MODULE)
    write("intel-rapl:0", 30)
    state = first.state_dict()
    write("intel-rapl:0", 500)  # between the parts
    second = Throughput()
    second.load_state_dict(state)
    second.on_train_start(fake_trainer(), MODULE)
    write("intel-rapl:1", 270)
    assert second.energy_j() == 300
    metrics = {"energy_j": second.energy_j(), "energy_sources": second.energy_sources()}
    assert format_energy(metrics) == "0.3 kJ (dram of intel-rapl:0:1, package-0, package-1)"
    del state["energy_j"]  # a checkpoint of a machine that does not tell
    third = Throughput()
    third.load_state_dict(state)
    third.on_train_start(fake_trainer(), MODULE)
    assert third.energy_j() is None
    assert "energy_j" not in third.state_dict()
