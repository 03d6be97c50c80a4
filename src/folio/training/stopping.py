"""How a run ends before or at its last step: in order, as hopeless, at a signal, or at once at a second one."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.training.callbacks import Checkpoints, Curves, ends_step
from folio.training.evaluation import Metrics


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

    def __init__(self, judge: Judge, curves: Curves, max_steps: int) -> None:
        self.judge = judge
        self.curves = curves
        self.max_steps = max_steps

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises: Hopeless."""
        reason = self.judge(trainer.global_step, self.curves.val)
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


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM: finish the step, save, stop. A second signal stops at once, and saves nothing.

    A context around the whole fit, so that a signal before the first step waits for it as well.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number in self._before:  # Lightning has put one of its own around that of SIGTERM
            signal.signal(number, self._receive)

    def _receive(self, signal_number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(signal_number, at_once=True)
        self.received = signal_number
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
        if self.received is not None and not trainer.should_stop:
            self.checkpoints.save(trainer)
            raise Interrupted(self.received)
