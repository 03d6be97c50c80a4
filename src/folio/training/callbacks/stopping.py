"""End a run: after a validation of its last step, after the current step at a signal, or at once at a second signal."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from folio.config.training import TrainingConfig
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.distributed.launcher import StopRequested
from folio.runtime.signals import STOP_NOTICE, Interrupted, asks_to_hurry, stop_signals
from folio.runtime.slurm import requeue_job
from folio.runtime.streams import write_to_stderr
from folio.training.callbacks.base import StepCallback
from folio.training.callbacks.checkpoints import CheckpointCallback


class ValidateAtEnd(StepCallback):
    """Makes Lightning validate after the last step even if validate_every_steps does not divide max_steps."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == self.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops


class StopOnSignal(StepCallback):
    """Finishes the step, saves and stops at Ctrl-C, SIGTERM or SIGHUP. A second signal stops at once and saves nothing.

    It is a context manager around the whole fit, so that a signal before the first step waits for that step.

    With several processes, each says at the end of each step whether it received a signal, so that all stop after the
    same one. A process of our launcher handles no signals itself: the launcher does, and `stop_requested` asks it.
    """

    def __init__(
        self,
        checkpoints: CheckpointCallback,
        training: TrainingConfig,
        distributed: DistributedContext = SINGLE_PROCESS,
        stop_requested: StopRequested | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self.training = training
        self.distributed = distributed
        self._stop_requested = stop_requested
        self.received: int | None = None
        """Number of the signal that this process received."""
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        # folio.train may be called in another thread, which receives no signals.
        if self._stop_requested is None and threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in stop_signals()}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def requeue(self, interrupted: Interrupted) -> None:
        """Requeue the job of a scheduler, unless the launcher does."""
        if self._stop_requested is None:
            number = interrupted.signal_number
            requeue_job(number, self._previous_handlers.get(number), self.distributed.is_global_zero)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning has installed its own handler of SIGTERM.
        for number in self._previous_handlers:
            signal.signal(number, self._on_signal)
        if self._stop_requested is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if not asks_to_hurry(number):
                return
            if self.distributed.world_size > 1:  # torchrun and srun repeat a signal, and can end a process by force
                return
            raise Interrupted(number, at_once=True)
        self.received = number
        if self.distributed.is_global_zero:
            write_to_stderr(STOP_NOTICE)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A step that validates is saved after its validation, because a resumed run would not repeat it.
        if not self.training.is_validation_step(trainer.global_step):
            self._stop_if_requested(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_if_requested(trainer)

    def _stop_if_requested(self, trainer: L.Trainer) -> None:
        """Raises: Interrupted after a signal, once the step is saved. The last step ends the run normally instead."""
        if trainer.should_stop:
            return
        own = self.received or (self._stop_requested() if self._stop_requested else 0)
        number = self.distributed.all_reduce_max(own)
        if number:
            self.checkpoints.save_last(trainer)
            raise Interrupted(number)
