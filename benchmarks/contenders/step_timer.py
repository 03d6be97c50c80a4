"""Between a training loop and the commands: lets a block of steps through, times it, and waits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.contenders.protocol import Line, Spec
from folio.cli.corpus import prepared_corpus
from folio.config.run import RunConfig
from folio.data.prepared import PreparedData
from folio.data.token_file import TokenFile
from folio.runtime.memory import peak_bytes, resident_bytes


class Turnstile:
    """What every training side has in common. Questions that are no steps are answered in `wait`."""

    def __init__(self, line: Line, device: torch.device, validate: Callable[[], float]) -> None:
        self._line = line
        self._device = device
        self._validate = validate
        self._n_steps = 0
        self._started = 0.0

    def open(self, model: nn.Module, n_position_parameters: int, rss_before: int) -> None:
        """Say that all is built. `n_position_parameters` are those that no matrix product sees."""
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._line.answer(
            n_parameters=n_parameters,
            n_parameters_without_positions=n_parameters - n_position_parameters,
            rss_before_bytes=rss_before,
            rss_ready_bytes=resident_bytes(),
        )

    def wait(self) -> int | None:
        """How many steps to do now, from here on timed; None: no more."""
        while (command := self._line.next()) is not None:
            if command.do == "steps":
                self._n_steps = command.n
                self._synchronize()
                self._started = time.perf_counter()
                return command.n
            if command.do == "memory":
                self._line.answer(peak_bytes=peak_bytes(), gpu_peak_bytes=self._gpu_peak_bytes())
            else:
                assert command.do == "validate"
                self._line.answer(loss_nats=self._validate())
        return None

    def done(self, losses: Sequence[Tensor], checkpoint_s: Sequence[float] = ()) -> None:
        """The steps are done, with these losses, and these times of checkpoints within them."""
        self._synchronize()
        elapsed_s = time.perf_counter() - self._started
        assert len(losses) == self._n_steps
        self._line.answer(
            elapsed_s=elapsed_s,
            n_steps=self._n_steps,
            checkpoint_s=list(checkpoint_s),
            losses=[loss.item() for loss in losses],
        )

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _gpu_peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None


def open_data(spec: Spec, config: RunConfig) -> PreparedData:
    """The corpus as train.py would open it, with the token file of the spec in place of the training split."""
    data = prepared_corpus(config, Path(config.paths.data_dir), say=print)
    return data if spec.tokens is None else replace(data, train=TokenFile.open(Path(spec.tokens)))
