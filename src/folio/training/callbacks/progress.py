"""TODO folio.training.callbacks.progress."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from folio.runtime.console import log
from folio.training.callbacks.metrics import MetricLogger
from folio.training.callbacks.throughput import Throughput, duration
from folio.training.trainer_state import ends_step

PROGRESS_EVERY_S = 0.5
"""A redraw takes about a millisecond, so twice a second costs 0.2 % of the time, however short a step is."""


PLAIN_LINE_EVERY_S = 10.0


class ProgressBar(Callback):
    """Loss, tokens/s and remaining time: a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, console: Console, pace: Throughput, curves: MetricLogger, max_steps: int) -> None:
        self.console = console
        self.pace = pace
        self.curves = curves
        self.max_steps = max_steps
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._drawn = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._drawn = time.perf_counter()
        if self.console.is_terminal:
            # No refresh thread: it would compete with the step for the interpreter.
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, auto_refresh=False)
            self._task = self._bar.add_task("", total=self.max_steps, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        interval = PROGRESS_EVERY_S if self._bar else PLAIN_LINE_EVERY_S
        now = time.perf_counter()
        is_last = trainer.global_step == self.max_steps
        if ends_step(trainer, batch_idx) and (now - self._drawn >= interval or is_last):
            self._drawn = now
            self._show(trainer.global_step)

    def _show(self, step: int) -> None:
        loss = "" if self.curves.train_loss_nats is None else f"loss {self.curves.train_loss_nats:.3f}, "
        speed, left = self.pace.mean_tokens_per_s(), self.pace.remaining_s(step, self.max_steps)
        line = f"{loss}{speed:,.0f} tokens/s, {duration(left)} left"
        if self._bar is None:
            log.info(f"step {step}/{self.max_steps}: {line}")
        else:
            assert self._task is not None
            self._bar.update(self._task, completed=step, description=line)
            self._bar.refresh()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class DurationEstimate(Callback):
    """Says after a few steps how long the run will take, while there is still time to change one's mind."""

    N_STEPS = 10

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self._began: tuple[int, float] | None = None
        self._told = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._told or not ends_step(trainer, batch_idx):
            return
        step, now = trainer.global_step, time.perf_counter()
        if self._began is None:  # the first step is slower than all others, and does not count
            self._began = (step, now)
        elif step == self._began[0] + self.N_STEPS:
            self._told = True
            step_s = (now - self._began[1]) / self.N_STEPS
            left = duration((self.max_steps - step) * step_s)
            log.info(f"{step_s:.3g} s a step: about {left} to finish, validation apart")
