"""Count tokens, and measure time, utilization and energy."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.runtime.energy import EnergyMeter, find_meter
from folio.training.callbacks.base import check_state


class Throughput(Callback):
    """Counts tokens, seconds and joules over all parts of a run; other callbacks read it.

    Validation is timed separately. Each process counts its own tokens, and assumes that the others have read equally
    many until `sync_counts`.
    """

    state_key = "throughput"

    def __init__(
        self,
        distributed: DistributedContext = SINGLE_PROCESS,
        *,
        flops_per_token: float = 0.0,
        peak_flop_per_s: float = 1.0,
    ) -> None:
        self.distributed = distributed
        self.flops_per_token = flops_per_token
        """Model FLOPs of training for each token."""
        self.peak_flop_per_s = peak_flop_per_s
        """Rate of matrix products, on all devices together."""
        self._synced_tokens = 0  # of all processes
        self._own_tokens = 0  # of this process, since then
        self.elapsed_before_s = 0.0
        """Wall time of the earlier parts of a resumed run."""
        self._validated_s = 0.0
        self._validation_started: float | None = None
        self._first_step = 0
        self._started = time.perf_counter()
        self._last_call = (0, 0.0)  # tokens and seconds at the last call of tokens_per_s
        self._meter: EnergyMeter | None = None  # of what this process answers for
        self._energy_before_j: float | None = 0.0

    @property
    def n_tokens(self) -> int:
        """Number of tokens read in training, over all processes and all parts of the run, without padding."""
        return self._synced_tokens + self.distributed.world_size * self._own_tokens

    def sync_counts(self) -> None:
        """Make `n_tokens` exact. All processes must call it at the same point."""
        self._synced_tokens += int(self.distributed.all_reduce_sum(torch.tensor(self._own_tokens)).item())
        self._own_tokens = 0

    @property
    def elapsed_s(self) -> float:
        """Wall time of training, validation included, over all parts of the run."""
        return self.elapsed_before_s + time.perf_counter() - self._started

    @property
    def validation_s(self) -> float:
        """Wall time of validation and of what follows it: samples, checkpoints and figures."""
        running = 0.0 if self._validation_started is None else time.perf_counter() - self._validation_started
        return self._validated_s + running

    @property
    def training_s(self) -> float:
        """Wall time of training without validation."""
        return self.elapsed_s - self.validation_s

    def tokens_per_s(self) -> float:
        """Return the training speed since the last call, without validation."""
        if self._meter is not None:
            self._meter.joules()  # a counter of a CPU starts again from 0 every few minutes
        (last_tokens, last_s), self._last_call = self._last_call, (self.n_tokens, self.training_s)
        return (self.n_tokens - last_tokens) / max(self.training_s - last_s, 1e-9)

    def mean_tokens_per_s(self) -> float:
        """Return the training speed over the whole run, without validation."""
        return self.n_tokens / max(self.training_s, 1e-9)

    def mfu(self, tokens_per_s: float) -> float:
        """Return the model FLOPs utilization: the share of the peak that training at this speed uses."""
        return tokens_per_s * self.flops_per_token / self.peak_flop_per_s

    def energy_j(self) -> float | None:
        """Return the energy of all parts of the run, validation included; None if some meter did not tell.

        All processes must call it at the same point.
        """
        own = 0.0 if self._meter is None else self._meter.joules()
        parts = [self._energy_before_j, *self.distributed.all_gather(own)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def energy_sources(self) -> list[str]:
        """Return what the energy of this process is measured on."""
        return [] if self._meter is None else self._meter.sources

    def remaining_s(self, step: int, max_steps: int) -> float:
        """Return the time to the end, validation included, at the speed of this part of the run."""
        n_steps = step - self._first_step
        return (max_steps - step) * (self.elapsed_s - self.elapsed_before_s) / max(n_steps, 1)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()
        self._first_step = trainer.global_step
        self._last_call = (self.n_tokens, self.training_s)
        device, is_first = pl_module.device, self.distributed.rank_info.local_rank == 0
        if is_first or device.type == "cuda":  # one process answers for the CPUs of a machine, each for its own GPU
            # ROCm, and torch before 2.5, name no UUID; then NVML knows no such GPU.
            properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
            uuid = None if properties is None else f"GPU-{getattr(properties, 'uuid', '')}"
            self._meter = find_meter(cpus=is_first, gpu_uuid=uuid)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Before the step, at whose end other callbacks read the count.
        self._own_tokens += batch.n_tokens

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated_s = self.validation_s
        self._validation_started = None

    def state_dict(self) -> dict[str, Any]:
        self.sync_counts()
        state = {"elapsed_s": self.elapsed_s, "validation_s": self.validation_s, "n_tokens": self.n_tokens}
        energy_j = self.energy_j()
        return state if energy_j is None else state | {"energy_j": energy_j}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = {"energy_j": None} | state_dict  # not known for the time before this checkpoint
        check_state(
            state_dict, elapsed_s=int | float, validation_s=int | float, n_tokens=int, energy_j=int | float | None
        )
        self.elapsed_before_s = state_dict["elapsed_s"]
        self._validated_s = state_dict["validation_s"]
        self._synced_tokens, self._own_tokens = state_dict["n_tokens"], 0
        self._energy_before_j = state_dict["energy_j"]


def format_duration(seconds: float) -> str:
    """Return a time as 42 s, 4 min 5 s or 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
