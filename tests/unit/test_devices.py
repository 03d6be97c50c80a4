"""A run gets the requested device, or one line that says why not; never another device."""

from collections.abc import Callable

import pytest
import torch

from folio.config.section import ConfigError
from folio.config.trainer import TrainerConfig
from folio.distributed.devices import check_devices, device_from_name, resolve_device, split_threads

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make PyTorch report other devices."""

    def pretend(*, gpu: bool = False, mps: bool = False, bfloat16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def trainer(accelerator: str, precision: str = "auto") -> TrainerConfig:
    return TrainerConfig(accelerator=accelerator, devices=1, precision=precision, compile=False, detect_anomaly=False)


@pytest.mark.parametrize("accelerator", ["gpu", "mps"])
def test_a_missing_device_is_one_line_with_the_remedy(accelerator: str, machine: Machine) -> None:
    machine()
    with pytest.raises(ConfigError, match=rf"^trainer={accelerator}: .* use trainer=cpu, or trainer=auto"):
        resolve_device(trainer(accelerator))


@pytest.mark.parametrize(
    ("gpu", "mps", "expected"), [(True, True, "gpu"), (True, False, "gpu"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_best_available_device(gpu: bool, mps: bool, expected: str, machine: Machine) -> None:
    machine(gpu=gpu, mps=mps)
    assert resolve_device(trainer("auto")).accelerator == expected


def test_cpu_is_used_even_if_there_is_a_gpu(machine: Machine) -> None:
    machine(gpu=True)
    assert resolve_device(trainer("cpu")).accelerator == "cpu"


@pytest.mark.parametrize(
    ("accelerator", "asked", "bfloat16", "expected"),
    [
        ("gpu", "auto", True, "bf16-mixed"),
        ("gpu", "auto", False, "16-mixed"),
        ("gpu", "mixed", True, "bf16-mixed"),
        ("gpu", "mixed", False, "16-mixed"),
        ("gpu", "32-true", True, "32-true"),
        ("cpu", "auto", False, "32-true"),
        ("cpu", "mixed", False, "bf16-mixed"),
        ("mps", "auto", False, "32-true"),
    ],
)
def test_the_precision_suits_the_device(
    accelerator: str, asked: str, bfloat16: bool, expected: str, machine: Machine
) -> None:
    machine(gpu=True, mps=True, bfloat16=bfloat16)
    assert resolve_device(trainer(accelerator, asked)).precision == expected


def test_float16_on_a_cpu_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.precision=16-mixed: .*use bf16-mixed or 32-true"):
        resolve_device(trainer("cpu", "16-mixed"))


def test_the_optimizer_is_not_fused_if_gradients_are_scaled(machine: Machine) -> None:
    machine(gpu=True, mps=True)
    fused = {
        (accelerator, precision): resolve_device(trainer(accelerator, precision)).supports_fused_optimizer
        for accelerator, precision in [("gpu", "bf16-mixed"), ("gpu", "16-mixed"), ("cpu", "32-true"), ("mps", "auto")]
    }
    assert fused == {
        ("gpu", "bf16-mixed"): True,
        ("gpu", "16-mixed"): False,
        ("cpu", "32-true"): True,
        ("mps", "auto"): False,
    }


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_autocast_computes_in_the_precision_of_training(precision: str, dtype: torch.dtype) -> None:
    with resolve_device(trainer("cpu", precision)).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_device_names_are_translated_to_torchs(machine: Machine) -> None:
    machine(gpu=True, mps=True)
    assert [device_from_name(name).type for name in ("auto", "gpu", "mps", "cpu")] == ["cuda", "cuda", "mps", "cpu"]
    assert resolve_device(trainer("gpu")).torch_device.type == "cuda"


def test_an_unknown_device_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="device=cuda is not one of auto, cpu, gpu, mps"):
        device_from_name("cuda")


def test_too_many_devices_is_one_line(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    four = trainer("gpu").model_copy(update={"devices": 4})
    assert resolve_device(four).accelerator == "gpu", "a model that was trained on four can be evaluated on one"
    check_devices(four.model_copy(update={"devices": 2}), "gpu")
    with pytest.raises(ConfigError, match=r"^trainer.devices=4: this machine has 2 GPU"):
        check_devices(four, "gpu")
    with pytest.raises(ConfigError, match=r"^trainer.devices=4: a Mac has one GPU; use trainer.devices=1"):
        check_devices(four, "mps")


def test_sharding_on_a_mac_is_one_line() -> None:
    sharded = trainer("auto").model_copy(update={"strategy": "fsdp"})
    check_devices(sharded, "cpu")
    with pytest.raises(ConfigError, match=r"^trainer.strategy=fsdp: .*Apple.* use trainer=mps"):
        check_devices(sharded, "mps")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give PyTorch four threads on a machine of four processors, and record how many it is told to use."""
    told = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: told[-1])
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr("folio.distributed.devices.available_cpus", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return told


def with_devices(config: TrainerConfig, devices: int, threads: int | None = None) -> TrainerConfig:
    return config.model_copy(update={"devices": devices, "threads": threads})


def test_processes_on_a_cpu_divide_its_threads(machine: Machine, threads: list[int]) -> None:
    machine(gpu=True)
    cpu, gpu = resolve_device(trainer("cpu")), resolve_device(trainer("gpu"))
    two, eight = (split_threads(cpu, with_devices(trainer("cpu"), n)) for n in (2, 8))
    assert (two.n_threads, eight.n_threads) == (2, 1)
    assert "2 threads" in two.name
    assert split_threads(gpu, with_devices(trainer("gpu"), 2)) == gpu
    assert threads == [4]


def test_each_process_has_the_threads_that_the_config_says(machine: Machine, threads: list[int]) -> None:
    machine()
    config = with_devices(trainer("cpu"), 2, threads=3)
    device = split_threads(resolve_device(config), config)
    assert device.n_threads == 3
    assert threads == [4, 3]


def test_a_container_with_fewer_processors_gets_fewer_threads_unless_asked(
    machine: Machine, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setattr("folio.distributed.devices.available_cpus", lambda: 2)
    assert resolve_device(trainer("cpu")).n_threads == 2
    threads.append(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert resolve_device(trainer("cpu")).n_threads == 4
