"""The device and the precision of a run. Imports no lightning."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from folio.config.section import ConfigError
from folio.config.trainer import NO_FLOAT16, TrainerConfig
from folio.distributed.waiting import watch_for_crowds
from folio.runtime.cpus import available_cpus
from folio.runtime.errors import is_memory_error
from folio.runtime.memory import peak_bytes, reset_peak

ACCELERATORS = ("auto", "cpu", "gpu", "mps")


@dataclass(frozen=True)
class Device:
    """An available device, with Lightning's names for its accelerator and precision."""

    accelerator: str
    precision: str
    name: str
    """Name for people, for example of the GPU."""

    n_threads: int = 0
    """CPU threads of each process; 0 on a GPU."""

    @property
    def torch_device(self) -> torch.device:
        return _torch_device(self.accelerator)

    @property
    def supports_fused_optimizer(self) -> bool:
        """A fused optimizer unscales float16 gradients inside its step, which is after gradient clipping."""
        return self.accelerator in ("cpu", "gpu") and self.precision != "16-mixed"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which Lightning runs a step of this precision."""
        if self.precision == "32-true":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
        return torch.autocast(self.torch_device.type, dtype=dtype)


def resolve_device(config: TrainerConfig, option: str = "trainer") -> Device:
    """Return the device that the config asks for, and use as many CPU threads as it says, or as there are processors.

    Raises: ConfigError if this machine does not have the device; its message names the option that chooses another.
    """
    accelerator = _find_accelerator(config.accelerator, option)
    n_threads = _use_threads(config.threads, config.n_processes) if accelerator == "cpu" else 0
    precision = _resolve_precision(config.precision, accelerator)
    return Device(accelerator, precision, _device_name(accelerator, n_threads), n_threads)


def device_from_name(name: str) -> torch.device:
    """Return the torch device for auto, cpu, gpu or mps. Raises: ConfigError."""
    if name not in ACCELERATORS:
        raise ConfigError(f"device={name} is not one of {', '.join(ACCELERATORS)}")
    accelerator = _find_accelerator(name, option="device")
    if accelerator == "cpu":
        _use_threads(None, n_processes=1)
    return _torch_device(accelerator)


def split_threads(device: Device, config: TrainerConfig) -> Device:
    """Return the device of each process of a machine. They share a CPU, and divide its threads unless the config says
    how many each has. A GPU is returned as is.
    """
    if device.accelerator != "cpu" or config.threads:
        return device
    n_processes = config.devices
    n_threads = max(1, device.n_threads // n_processes)
    return replace(device, n_threads=n_threads, name=_device_name("cpu", n_threads))


def check_devices(config: TrainerConfig, accelerator: str) -> None:
    """Raises: ConfigError if this machine has fewer devices than training needs, or the wrong kind."""
    if accelerator == "gpu" and config.devices > max(1, torch.cuda.device_count()):
        raise ConfigError(
            f"trainer.devices={config.devices}: this machine has {torch.cuda.device_count()} GPU(s); use at most those"
        )
    if accelerator == "mps" and config.n_processes > 1:
        raise ConfigError(f"trainer.devices={config.devices}: a Mac has one GPU; use trainer.devices=1")
    if accelerator == "mps" and config.strategy == "fsdp":
        raise ConfigError("trainer.strategy=fsdp: PyTorch shards no models on Apple's GPUs; use trainer=mps")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the machine ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or is_memory_error(error)


def peak_memory_bytes(device: Device) -> int:
    """Return the peak memory since `reset_peak_memory`: of torch's tensors on a CUDA GPU, else of the process."""
    return torch.cuda.max_memory_allocated() if device.accelerator == "gpu" else peak_bytes()


def reset_peak_memory(device: Device) -> None:
    """Restart the measurement, because the process may have run an earlier job of a sweep."""
    if device.accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    reset_peak()


def _find_accelerator(requested: str, option: str) -> str:
    """Return gpu, mps or cpu; the best available one for auto. Raises: ConfigError that names the option."""
    has_gpu, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if requested == "auto":
        return "gpu" if has_gpu else "mps" if has_mps else "cpu"
    if (requested == "gpu" and not has_gpu) or (requested == "mps" and not has_mps):
        kind = "CUDA" if requested == "gpu" else "Apple"
        raise ConfigError(
            f"{option}={requested}: PyTorch sees no {kind} GPU on this machine; use {option}=cpu, or {option}=auto for "
            "the best device available"
        )
    return requested


def _use_threads(n_threads: int | None, n_processes: int) -> int:
    """Make torch use so many threads, and return the number. None: one per processor, or as the environment says."""
    if n_threads is None:
        n_threads = torch.get_num_threads()
        if "OMP_NUM_THREADS" not in os.environ:
            n_threads = min(n_threads, available_cpus())  # torch does not know the limit of a container
    if n_threads != torch.get_num_threads():
        torch.set_num_threads(n_threads)
    watch_for_crowds(n_threads, may_move=n_processes == 1)  # processes that are started would inherit the place
    return n_threads


def _torch_device(accelerator: str) -> torch.device:
    return torch.device("cuda" if accelerator == "gpu" else accelerator)


def _resolve_precision(requested: str, accelerator: str) -> str:
    """Return Lightning's name of the precision. Raises: ConfigError for float16 on a CPU, where Lightning has none."""
    if requested == "auto":
        requested = "mixed" if accelerator == "gpu" else "32-true"
    if requested == "mixed":
        has_bfloat16 = accelerator != "gpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if has_bfloat16 else "16-mixed"
    if requested == "16-mixed" and accelerator == "cpu":
        raise ConfigError(NO_FLOAT16)
    return requested


def _device_name(accelerator: str, n_threads: int) -> str:
    if accelerator == "gpu":
        return torch.cuda.get_device_name()
    processor = platform.processor() or platform.machine()
    if accelerator == "mps":
        return f"Apple GPU ({processor})"
    return f"CPU ({processor}, {n_threads} thread{'s' if n_threads > 1 else ''})"
