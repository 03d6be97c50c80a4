"""Show progress on the terminal."""

import time
from typing import Protocol

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from folio.runtime.console import in_notebook, log
from folio.training.callbacks.base import StepCallback
from folio.training.callbacks.metrics import MetricLogger
from folio.training.callbacks.throughput import Throughput, format_duration

REDRAW_EVERY_S = 0.5
"""Drawing the bar takes about a millisecond, so this costs 0.2 % of the time, however short a step is."""

LINE_EVERY_S = 10.0


class Bar(Protocol):
    """A progress bar that is redrawn in place."""

    def update(self, step: int, text: str) -> None: ...

    def close(self) -> None: ...


class TerminalBar:
    """A bar in the last line of a terminal. In a sweep it disappears at the end."""

    def __init__(self, console: Console, step: int, max_steps: int, disappears: bool) -> None:
        # Without a refresh thread, which would compete with the step for the interpreter.
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, auto_refresh=False, transient=disappears)
        self._task = self._progress.add_task("", total=max_steps, completed=step)
        self._progress.start()

    def update(self, step: int, text: str) -> None:
        self._progress.update(self._task, completed=step, description=text)
        self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()


class NotebookBar:
    """A bar of text in the output of a notebook's cell. rich's own needs ipywidgets, which many notebooks lack."""

    WIDTH = 40

    def __init__(self, step: int, max_steps: int) -> None:
        from IPython.display import display

        self._max_steps = max_steps
        self._display = display(self._draw(step, ""), raw=True, display_id=True)

    def update(self, step: int, text: str) -> None:
        self._display.update(self._draw(step, text), raw=True)

    def close(self) -> None:
        """The bar stays as it is."""

    def _draw(self, step: int, text: str) -> dict[str, str]:
        bar = "━" * (self.WIDTH * step // self._max_steps)
        return {"text/plain": f"{bar:╌<{self.WIDTH}} {step}/{self._max_steps} {text}"}


class ProgressBar(StepCallback):
    """Shows loss, tokens/s and remaining time: a bar on a terminal or in a notebook, a line now and then elsewhere."""

    def __init__(
        self,
        console: Console,
        throughput: Throughput,
        metrics: MetricLogger,
        max_steps: int,
        *,
        disappears: bool = False,
    ) -> None:
        self.console = console
        self.disappears = disappears
        self.throughput = throughput
        self.metrics = metrics
        self.max_steps = max_steps
        self._bar: Bar | None = None
        self._last_shown = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_shown = time.perf_counter()
        if in_notebook():  # first, because a kernel says FORCE_COLOR=1
            self._bar = NotebookBar(trainer.global_step, self.max_steps)
        elif self.console.is_terminal:
            self._bar = TerminalBar(self.console, trainer.global_step, self.max_steps, self.disappears)

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
        speed = self.throughput.mean_tokens_per_s()
        if self._bar is None:
            mfu = self.throughput.mfu(speed)
            log.info(f"step {step}/{self.max_steps}: {loss}{speed:,.0f} tokens/s, MFU {mfu:.2g}, {remaining} left")
        else:  # which has to fit into 80 columns
            self._bar.update(step, f"{loss}{speed:,.0f} tokens/s, {remaining} left")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        """Leave the bar on the screen, once: Lightning may end a run with two of its hooks."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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
