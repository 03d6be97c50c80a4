"""Times blocks of training steps inside a worker, and answers the commands between them."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.contenders.protocol import Channel, WorkerSpec
from folio.cli.corpus import prepare_data
from folio.config.run import RunConfig
from folio.data.prepared import PreparedData
from folio.data.token_file import TokenFile
from folio.runtime.memory import peak_bytes, resident_bytes


class StepTimer:
    """Connects a training loop with the commands: report_ready, then wait_for_steps and finish, again and again."""

    def __init__(self, channel: Channel, device: torch.device, validate: Callable[[], float]) -> None:
        self._channel = channel
        self._device = device
        self._validate = validate
        self._n_steps = 0
        self._started = 0.0

    def report_ready(self, model: nn.Module, n_position_parameters: int, rss_before: int) -> None:
        """Reply that everything is built. `n_position_parameters` are those that no matrix product uses."""
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._channel.reply(
            n_parameters=n_parameters,
            n_parameters_without_positions=n_parameters - n_position_parameters,
            rss_before_bytes=rss_before,
            rss_ready_bytes=resident_bytes(),
        )

    def wait_for_steps(self) -> int | None:
        """Return how many steps to do now and start the clock, or None to stop. Answers other commands meanwhile."""
        while (command := self._channel.receive()) is not None:
            if command.do == "steps":
                self._n_steps = command.n
                synchronize(self._device)
                self._started = time.perf_counter()
                return command.n
            if command.do == "memory":
                self._channel.reply(
                    peak_bytes=peak_bytes(), gpu_peak_bytes=gpu_peak_bytes(self._device), n_graphs=compiled_graphs()
                )
            else:
                assert command.do == "validate"
                self._channel.reply(loss_nats=self._validate())
        return None

    def finish(self, losses: Sequence[Tensor], checkpoint_s: Sequence[float] = ()) -> None:
        """Stop the clock and reply with the losses, and the times of the checkpoints among the steps."""
        synchronize(self._device)
        elapsed_s = time.perf_counter() - self._started
        assert len(losses) == self._n_steps
        self._channel.reply(
            elapsed_s=elapsed_s,
            n_steps=self._n_steps,
            checkpoint_s=list(checkpoint_s),
            losses=[loss.item() for loss in losses],
        )


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def gpu_peak_bytes(device: torch.device) -> int | None:
    """Return the peak of the tensors on a GPU; None for another device."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def compiled_graphs() -> int:
    """Return how many graphs torch.compile has made in this process: one for each recompilation, too."""
    compiler = sys.modules.get("torch._dynamo.utils")  # which takes seconds to import
    return int(compiler.counters["stats"]["unique_graphs"]) if compiler else 0


def open_data(spec: WorkerSpec, config: RunConfig) -> PreparedData:
    """Open the corpus as train.py does, with the token file of the spec as training split if there is one."""
    data = prepare_data(config)
    return data if spec.tokens is None else replace(data, train=TokenFile.open(Path(spec.tokens)))
