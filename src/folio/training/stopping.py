"""How a run ends before or at its last step: in order, as hopeless, at a signal, or at once at a second one."""

import os
import signal
import subprocess
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.training.callbacks import Checkpoints, Curves, ends_step
from folio.training.console import log
from folio.training.evaluation import Metrics
from folio.training.world import World


class ValidateAtEnd(Callback):
    """Makes the last step a validated one, also where validate_every_steps does not divide max_steps."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.max_steps:
            trainer.should_stop = True  # Lightning validates before it stops


Judge = Callable[[int, Metrics], str | None]
"""Asked after each validation, with its step and figures; a reason ends the run there."""


class Hopeless(BaseException):  # not an Exception, which Lightning's loggers would catch
    """What a judge has against a run."""


class EndsEarly(Callback):
    """Ends a run that its judge has given up. The last step ends it anyway, and properly."""

    def __init__(self, judge: Judge, curves: Curves, max_steps: int, world: World | None = None) -> None:
        self.judge = judge
        self.curves = curves
        self.max_steps = max_steps
        self.world = world or World()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises: Hopeless, in all processes of the run: the first asks for all."""
        reason = self.world.from_first(lambda: self.judge(trainer.global_step, self.curves.val))
        if reason is not None and trainer.global_step < self.max_steps:
            raise Hopeless(reason)


class Interrupted(BaseException):  # not an Exception, which Lightning's loggers would catch
    """A person or a scheduler asked the run to stop; it is saved, unless it was asked twice."""

    def __init__(self, signal_number: int, at_once: bool = False) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.at_once = at_once

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + self.signal_number


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a run to stop. Under SLURM and submitit also the warnings before a time limit or preemption."""
    usual = (signal.SIGINT, signal.SIGTERM)
    scheduled = any(name in os.environ for name in ("SLURM_JOB_ID", "SUBMITIT_EXECUTOR"))
    return (*usual, *WARNINGS) if scheduled else usual


WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What sbatch --signal=USR1@90 and submitit (SIGUSR2) send before they end a job: save, and get in line again."""


def requeue(signal_number: int, handler: Any, is_first: bool = True) -> None:
    """Put a job that was warned, and is saved, in line again; `handler` is whoever listened to the signal before us.

    submitit's own handler, in each process, requeues the job and ends the process. Elsewhere the first process asks
    SLURM. A job that SIGTERM ended is left to SLURM, which requeues what it preempts, and not what a person cancels.
    """
    if signal_number not in WARNINGS:
        return
    if callable(handler):
        handler(signal_number, None)
    elif is_first and (job := os.environ.get("SLURM_JOB_ID")):
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        log.info(f"SLURM's job {job} " + ("is in line again" if done.returncode == 0 else f"ends: {done.stderr}"))


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM: finish the step, save, stop. A second signal stops at once, and saves nothing.

    A context around the whole fit, so that a signal before the first step waits for it as well. Of many processes each
    says at the end of each step whether it was asked, so that all stop after the same one; a process that another
    watches over is asked by `asked`, which gives the signal's number or 0, and listens to no signal itself.
    """

    def __init__(
        self, checkpoints: Checkpoints, world: World | None = None, asked: Callable[[], int] | None = None
    ) -> None:
        self.checkpoints = checkpoints
        self.world = world or World()
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
            requeue(stop.signal_number, self._before.get(stop.signal_number), self.world.is_first)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning has put one of its own around that of SIGTERM.
        for number in self._before:
            signal.signal(number, self._receive)
        if self._asked is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if self.world.size > 1:  # torchrun and srun repeat a signal, and know harder ways to end a process
                return
            raise Interrupted(signal_number, at_once=True)
        self.received = signal_number
        if self.world.is_first:
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
        number = self.world.largest(mine)
        if number:
            self.checkpoints.save(trainer)
            raise Interrupted(number)
