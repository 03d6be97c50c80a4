"""The peak of a device is known or measured, and kept."""

import json
from pathlib import Path

import pytest
import torch

from folio.distributed import peak_flops
from folio.distributed.devices import Device
from folio.distributed.peak_flops import KNOWN_GPUS, known_gpu, peak_flop_per_s

CPU = Device("cpu", "32-true", "CPU (x86_64, 1 thread)", n_threads=1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Peaks that the next measurements find; those that are left were not needed."""
    peaks = [3e11, 2e11, 5e11]
    monkeypatch.setattr(peak_flops, "measure_peak", lambda kind, dtype: peaks.pop(0))
    return peaks


def test_a_measurement_is_plausible_and_leaves_the_random_numbers_of_the_run_alone(tmp_path: Path) -> None:
    """Products of float32 on one core: no processor of today is outside of these bounds."""
    state = torch.random.get_rng_state()
    peak = peak_flop_per_s(CPU, tmp_path / "new" / "peaks.json")
    assert 1e8 < peak < 1e13
    assert torch.equal(torch.random.get_rng_state(), state)
    (stored,) = json.loads((tmp_path / "new" / "peaks.json").read_text()).values()
    assert stored["flop_per_s"] == peak


def test_a_peak_is_measured_once_and_again_only_on_a_quieter_machine(
    tmp_path: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "peaks.json"
    load = 3.0
    monkeypatch.setattr(peak_flops, "other_load", lambda: load)
    assert [peak_flop_per_s(CPU, file) for _ in range(3)] == [3e11, 3e11, 3e11]
    load = 0.1
    assert peak_flop_per_s(CPU, file) == 3e11, "the higher of both"
    load = 5.0
    assert peak_flop_per_s(CPU, file) == 3e11
    assert measured == [5e11]
    other = Device("cpu", "bf16-mixed", CPU.name, n_threads=1)
    assert peak_flop_per_s(other, file) == 5e11
    assert peak_flop_per_s(CPU, file) == 3e11, "both are kept"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"x": 1}', '{"x": {"flop_per_s": "high"}}', '{"x": {"flop_per_s": -1, "load": NaN}}']
)
def test_a_damaged_cache_is_written_again(content: str, tmp_path: Path, measured: list[float]) -> None:
    file = tmp_path / "peaks.json"
    file.write_text(content)
    assert peak_flop_per_s(CPU, file) == peak_flop_per_s(CPU, file) == 3e11
    assert len(measured) == 2


def test_a_cache_that_cannot_be_written_costs_a_measurement_each_time(tmp_path: Path, measured: list[float]) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "file" / "peaks.json"
    assert [peak_flop_per_s(CPU, file) for _ in range(2)] == [3e11, 2e11]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A40", 149.7e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", 65e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA H20", None),
        ("NVIDIA RTX A4000", None),
    ],
)
def test_known_cards_need_no_measurement_in_16_bits(name: str, peak: float | None, measured: list[float]) -> None:
    assert known_gpu(name) == peak
    if peak:
        assert peak_flop_per_s(Device("gpu", "bf16-mixed", name)) == peak
        assert len(measured) == 3


def test_no_known_card_hides_a_longer_name() -> None:
    assert {name: known_gpu(f"NVIDIA {name}") for name in KNOWN_GPUS} == KNOWN_GPUS
