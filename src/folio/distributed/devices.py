"""Which device a run takes, and in which precision. Imports no lightning."""

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from folio.config.section import ConfigError
from folio.config.trainer import TrainerConfig
from folio.runtime.memory import peak_bytes, reset_peak

ACCELERATORS = ("auto", "cpu", "gpu", "mps")


@dataclass(frozen=True)
class Device:
    """A device that is there, under Lightning's names for it and its precision."""

    accelerator: str
    precision: str
    name: str
    """What a person calls it."""

    n_threads: int = 0
    """Of a CPU: those that a process has; 0 on a GPU."""

    @property
    def torch_device(self) -> torch.device:
        return torch_device(self.accelerator)

    @property
    def supports_fused_optimizer(self) -> bool:
        """Fused optimizers unscale float16 gradients inside the step, after we would have clipped them."""
        return self.accelerator in ("cpu", "gpu") and self.precision != "16-mixed"

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which Lightning runs a step of this precision."""
        if self.precision == "32-true":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
        return torch.autocast(self.torch_device.type, dtype=dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory, or the machine's, did not suffice; torch has no type for the latter."""
    words = ("can't allocate memory", "bad_alloc", "could not create a memory", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)
    )


def peak_memory_bytes(device: Device) -> int:
    """Return the peak memory since `reset_peak_memory`: of torch's tensors on a CUDA GPU, else of the process."""
    return torch.cuda.max_memory_allocated() if device.accelerator == "gpu" else peak_bytes()


def reset_peak_memory(device: Device) -> None:
    """Start counting again: the process may have run another job of a sweep before."""
    if device.accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    reset_peak()


def resolve_device(config: TrainerConfig) -> Device:
    """The device that the config asks for. Raises: ConfigError where this machine has none; never another one."""
    accelerator = find_accelerator(config.accelerator)
    n_threads = torch.get_num_threads() if accelerator == "cpu" else 0
    return Device(
        accelerator, _precision(config.precision, accelerator), _device_name(accelerator, n_threads), n_threads
    )


def split_threads(device: Device, n_processes: int) -> Device:
    """Return the device of each of `n_processes` that share a CPU: each has its share of the threads."""
    if device.accelerator != "cpu":
        return device
    n_threads = max(1, device.n_threads // n_processes)
    return replace(device, n_threads=n_threads, name=_device_name("cpu", n_threads))


def check_devices(config: TrainerConfig, accelerator: str) -> None:
    """Raises: ConfigError where this machine has fewer devices than training asks for, or not of that kind."""
    if accelerator == "gpu" and config.devices > max(1, torch.cuda.device_count()):
        raise ConfigError(
            f"trainer.devices={config.devices}: this machine has {torch.cuda.device_count()} GPU(s); ask for as many"
        )
    if accelerator == "mps" and config.n_processes > 1:
        raise ConfigError(f"trainer.devices={config.devices}: Apple's GPU is one; use trainer.devices=1")
    if accelerator != "gpu" and config.strategy == "fsdp":
        raise ConfigError("trainer.strategy=fsdp: it needs GPUs, and this machine has none; use trainer=ddp_cpu")


def device_from_name(name: str) -> torch.device:
    """The torch device of auto, cpu, gpu or mps. Raises: ConfigError."""
    if name not in ACCELERATORS:
        raise ConfigError(f"device={name} is not one of {', '.join(ACCELERATORS)}")
    return torch_device(find_accelerator(name, option="device"))


def torch_device(accelerator: str) -> torch.device:
    """Lightning's name of a device in torch's words."""
    return torch.device("cuda" if accelerator == "gpu" else accelerator)


def find_accelerator(asked: str, option: str = "trainer") -> str:
    """gpu, mps or cpu, as `option` asks for, or the best there is for auto. Raises: ConfigError."""
    accelerator = best_accelerator() if asked == "auto" else asked
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError(_missing(f"{option}=gpu", "PyTorch sees no CUDA GPU on this machine"))
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(_missing(f"{option}=mps", "PyTorch sees no Apple GPU on this machine"))
    return accelerator


def best_accelerator() -> str:
    """gpu, mps or cpu."""
    if torch.cuda.is_available():
        return "gpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _missing(asked: str, reason: str) -> str:
    option = asked.partition("=")[0]
    return f"{asked}: {reason}; use {option}=cpu, or {option}=auto for the best there is"


def _precision(asked: str, accelerator: str) -> str:
    """Lightning's name. float16 needs a GPU: on a CPU Lightning trains in bfloat16 alone."""
    if asked == "auto":
        asked = "mixed" if accelerator == "gpu" else "32-true"
    if asked == "mixed":
        has_bfloat16 = accelerator != "gpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if has_bfloat16 else "16-mixed"
    if asked == "16-mixed" and accelerator == "cpu":
        raise ConfigError("trainer.precision=16-mixed: a CPU has no float16 products; use bf16-mixed or 32-true")
    return asked


def _device_name(accelerator: str, n_threads: int) -> str:
    if accelerator == "gpu":
        return torch.cuda.get_device_name()
    processor = platform.processor() or platform.machine()
    if accelerator == "mps":
        return f"Apple GPU ({processor})"
    return f"CPU ({processor}, {n_threads} threads)"
