"""Show progress on the terminal."""

import time

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from folio.runtime.console import log
from folio.training.callbacks.base import StepCallback
from folio.training.callbacks.metrics import MetricLogger
from folio.training.callbacks.throughput import Throughput, format_duration

REDRAW_EVERY_S = 0.5
"""Drawing the bar takes about a millisecond, so this costs 0.2 % of the time, however short a step is."""

LINE_EVERY_S = 10.0


class ProgressBar(StepCallback):
    """Shows loss, tokens/s and remaining time: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, throughput: Throughput, metrics: MetricLogger, max_steps: int) -> None:
        self.console = console
        self.throughput = throughput
        self.metrics = metrics
        self.max_steps = max_steps
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_shown = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_shown = time.perf_counter()
        if self.console.is_terminal:
            # Without a refresh thread, which would compete with the step for the interpreter.
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, auto_refresh=False)
            self._task = self._bar.add_task("", total=self.max_steps, completed=trainer.global_step)
            self._bar.start()

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now, step = time.perf_counter(), trainer.global_step
        interval = REDRAW_EVERY_S if self._bar else LINE_EVERY_S
        if now - self._last_shown >= interval or step == self.max_steps:
            self._last_shown = now
            self._show(step)

    def _show(self, step: int) -> None:
        loss_nats = self.metrics.train_loss_nats
        loss = "" if loss_nats is None else f"loss {loss_nats:.3f}, "
        remaining = format_duration(self.throughput.remaining_s(step, self.max_steps))
        line = f"{loss}{self.throughput.mean_tokens_per_s():,.0f} tokens/s, {remaining} left"
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


class DurationEstimate(StepCallback):
    """Prints once, after a few steps, how long the run will take."""

    N_STEPS = 10

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self._first_step: int | None = None
        self._started = 0.0

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = trainer.global_step
        if self._first_step is None:  # the first step is slower than all others, and is not timed
            self._first_step, self._started = step, time.perf_counter()
        elif step == self._first_step + self.N_STEPS:
            step_s = (time.perf_counter() - self._started) / self.N_STEPS
            remaining = format_duration((self.max_steps - step) * step_s)
            log.info(f"{step_s:.3g} s a step: about {remaining} to finish, without validation")
