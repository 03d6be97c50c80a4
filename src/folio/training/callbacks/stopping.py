"""How a run ends before or at its last step: in order, as hopeless, at a signal, or at once at a second one."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.runtime.signals import Interrupted, stop_signals
from folio.runtime.slurm import requeue_job
from folio.training.callbacks.checkpoints import CheckpointCallback
from folio.training.trainer_state import ends_step


class ValidateAtEnd(Callback):
    """Makes the last step a validated one, also where validate_every_steps does not divide max_steps."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM: finish the step, save, stop. A second signal stops at once, and saves nothing.

    A context around the whole fit, so that a signal before the first step waits for it as well. Of many processes each
    says at the end of each step whether it was asked, so that all stop after the same one; a process that another
    watches over is asked by `asked`, which gives the signal's number or 0, and listens to no signal itself.
    """

    def __init__(
        self,
        checkpoints: CheckpointCallback,
        distributed: DistributedContext = SINGLE_PROCESS,
        asked: Callable[[], int] | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self.distributed = distributed
        self._asked = asked
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if self._asked is None:
            self._before = {number: signal.signal(number, self._receive) for number in stop_signals()}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requeue(self, stop: Interrupted) -> None:
        """See `requeue`; not where another process watches over this one, and does it."""
        if self._asked is None:
            requeue_job(stop.signal_number, self._before.get(stop.signal_number), self.distributed.is_global_zero)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning has put one of its own around that of SIGTERM.
        for number in self._before:
            signal.signal(number, self._receive)
        if self._asked is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if (
                self.distributed.world_size > 1
            ):  # torchrun and srun repeat a signal, and know harder ways to end a process
                return
            raise Interrupted(signal_number, at_once=True)
        self.received = signal_number
        if self.distributed.is_global_zero:
            # Past print and log, one of which the signal may have come in the middle of.
            os.write(2, b"stopping after this step; once more stops at once\n")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A step that validates is saved after its validation, which a run that goes on would not make up for.
        if ends_step(trainer, batch_idx) and not self.checkpoints.validates(trainer.global_step):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        # The last step ends the run anyway, and properly.
        if trainer.should_stop:
            return
        mine = self.received or (self._asked() if self._asked else 0)
        number = self.distributed.all_reduce_max(mine)
        if number:
            self.checkpoints.save(trainer)
            raise Interrupted(number)
