"""What happens around the steps: curves, progress, samples and checkpoints.

Their order in the trainer matters where one needs what another has done; `folio.training.run` gives it.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from folio.config import TrainingConfig
from folio.data.prepared import PreparedData
from folio.data.token_file import TokenFileInfo
from folio.data.tokenizers import Tokenizer
from folio.errors import FolioError
from folio.generation.generate import generate_text
from folio.generation.sampling import Sampling
from folio.options.callbacks import SamplesConfig
from folio.training.console import log
from folio.training.divergence import Diverged, SpikeWatch
from folio.training.evaluation import Metrics, describe, metrics_of
from folio.training.lit_module import LanguageModel
from folio.training.pace import Pace, duration

PROGRESS_EVERY_S = 0.5
"""A redraw takes about a millisecond, so twice a second costs 0.2 % of the time, however short a step is."""

PLAIN_LINE_EVERY_S = 10.0


def ends_step(trainer: L.Trainer, batch_index: int) -> bool:
    """Whether this micro batch completed an optimizer step."""
    return (batch_index + 1) % trainer.accumulate_grad_batches == 0


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether no process holds the whole model."""
    return isinstance(trainer.strategy, FSDPStrategy)


class DataWatch(Callback):
    """Sees to it that no checkpoint holds steps on tokens that something wrote over while they were being read."""

    def __init__(self, data: PreparedData) -> None:
        self.data = data

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises: FolioError, and nothing is saved."""
        self.check()

    def check(self) -> None:
        """Raises: FolioError where something has written to the tokens since they were opened."""
        for file in self.data.files:
            file.check_unchanged()


class Curves(Callback):
    """Writes the scalars of training every log_every_steps, and those of validation when there are some."""

    def __init__(self, pace: Pace, training: TrainingConfig, train_info: TokenFileInfo | None) -> None:
        self.pace = pace
        self.training = training
        self.train_info = train_info
        self.train_loss_nats: float | None = None
        """Mean since the scalars before."""
        self.val: Metrics = {}
        self.val_step: int | None = None
        """Of the last validation, whose figures are `val`."""
        self._spikes = SpikeWatch()
        self._rate = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModel)
        self._rate = pl_module.learning_rate

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        is_last = step == self.training.max_steps
        if not ends_step(trainer, batch_idx) or (step % self.training.log_every_steps and not is_last):
            return
        assert isinstance(pl_module, LanguageModel)
        pl_module.gradients.check()
        self.pace.meet()
        scalars = {"train/skipped_steps": float(pl_module.gradients.n_skipped)} if pl_module.gradients.skips else {}
        means = pl_module.train_means.take()
        if means is not None:  # else every step since was skipped
            scalars |= self._of_training(*means, trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)

    def _of_training(
        self, loss: float, accuracy: float, trainer: L.Trainer, pl_module: LanguageModel
    ) -> dict[str, float]:
        self.train_loss_nats = loss
        self._check_finite("training", loss, trainer, pl_module)
        usual = self._spikes.spike(loss)
        if usual is not None:
            log.warning(
                f"warning: the training loss jumped to {loss:.3f} nats at step {trainer.global_step}; the median of "
                f"the {SpikeWatch.N_BEFORE} values before is {usual:.3f}"
            )
        assert pl_module.gradient_norm is not None
        metrics = metrics_of(loss, accuracy, self.train_info)
        return {
            **{f"train/{name}": value for name, value in metrics.items()},
            "train/learning_rate": self._rate,
            "train/gradient_norm": pl_module.gradient_norm.item(),
            "train/tokens_per_s": self.pace.tokens_per_s(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "train_loss_nats": self.train_loss_nats,
            "val": self.val,
            "val_step": self.val_step,
            "recent_losses": list(self._spikes.losses),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_loss_nats = state_dict["train_loss_nats"]
        self.val, self.val_step = state_dict.get("val", {}), state_dict.get("val_step")
        self._spikes = SpikeWatch(state_dict.get("recent_losses", ()))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        pl_module.gradients.check()
        val = pl_module.val
        self._check_finite("validation", val["loss_nats"], trainer, pl_module)
        self.val, self.val_step = val, trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in val.items()}, trainer.global_step)
        log.info(f"step {trainer.global_step}: {describe(val)}")

    def _check_finite(self, which: str, loss: float, trainer: L.Trainer, pl_module: LanguageModel) -> None:
        """Raises: Diverged; the checkpoints of before stay."""
        if not math.isfinite(loss):
            key = "schedule.scale" if pl_module.config.schedule.name == "noam" else "optimizer.learning_rate"
            raise Diverged(
                f"the {which} loss is {loss} at step {trainer.global_step}, with learning rate {self._rate:.3g} and "
                f"gradient norm {pl_module.gradient_norm:.3g}: the run has diverged; lower {key}"
            )


class ProgressBar(Callback):
    """Loss, tokens/s and remaining time: a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, console: Console, pace: Pace, curves: Curves, max_steps: int) -> None:
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


class FirstEstimate(Callback):
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


class Samples(Callback):
    """At each validation the model writes a text: for `samples.md`, TensorBoard and whoever watches."""

    def __init__(self, config: SamplesConfig, tokenizer: Tokenizer, seed: int, file: Path) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.seed = seed
        self.file = file
        self.sampling = Sampling(temperature=config.temperature, top_k=config.top_k)
        self.latest = ""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises: FolioError where the model cannot write from the prompt, before the first step."""
        if self._writes(trainer):
            try:
                self._pieces(pl_module)
            except FolioError as error:
                raise FolioError(f"callbacks.samples.prompt: {error}") from None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._writes(trainer):
            return
        # Compiled blocks would be compiled again for the lengths of generation.
        with torch.compiler.set_stance("force_eager"):
            self.latest = "".join(self._pieces(pl_module))
        self._write(trainer)

    def _writes(self, trainer: L.Trainer) -> bool:
        """One process writes for all; none where each holds a share of the weights, which alone says nothing."""
        return self.config.max_new_tokens > 0 and trainer.is_global_zero and not is_sharded(trainer)

    def _pieces(self, pl_module: L.LightningModule) -> Iterator[str]:
        """Of the text, to be written as they are asked for. An encoder-decoder has the prompt as its prefix."""
        assert isinstance(pl_module, LanguageModel)
        model = pl_module.model  # in eval mode at the end of validation: Lightning has not ended it yet
        has_prefix = model.config.family == "encoder_decoder"
        return generate_text(
            model,
            self.tokenizer,
            "" if has_prefix else self.config.prompt,
            prefix=self.config.prompt if has_prefix else None,
            max_new_tokens=self.config.max_new_tokens,
            sampling=self.sampling,
            seed=self.seed,
        )

    def _write(self, trainer: L.Trainer) -> None:
        # Indented, so that whatever the model writes stays text in Markdown.
        text = "\n".join(f"    {line}" for line in self.latest.splitlines())
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"## Step {trainer.global_step}\n\n{text}\n\n")
        except OSError as error:
            log.warning(f"warning: the sample of step {trainer.global_step} is lost: {self.file}: {error.strerror}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", text, trainer.global_step)


class Checkpoints(Callback):
    """Keeps `last.ckpt`, where the run can go on, and `best.ckpt`, with the lowest validation loss.

    With keep_every_steps it keeps `step=<n>.ckpt` of every n-th step as well.
    Lightning's ModelCheckpoint would save before the validation of the same step; a run that goes on from
    there would leave that validation out. Here a step is saved once everything that belongs to it is done.
    """

    def __init__(
        self,
        folder: Path,
        training: TrainingConfig,
        keep_every_steps: int | None = None,
        restore_run_folder: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.restore_run_folder = restore_run_folder
        self.training = training
        self.keep_every_steps = keep_every_steps
        self.best_loss_nats = float("inf")
        self.best_step: int | None = None
        self.saved_step: int | None = None
        """Of last.ckpt, where this part of the run wrote it."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if ends_step(trainer, batch_idx) and not self.validates(step):
            self._save_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        step, loss = trainer.global_step, pl_module.val["loss_nats"]
        if loss < self.best_loss_nats:
            self.best_loss_nats, self.best_step = loss, step
            self._write(trainer, "best")
        self._save_due(trainer)

    def _save_due(self, trainer: L.Trainer) -> None:
        """What this step calls for, once its validation, where it has one, is done."""
        step = trainer.global_step
        if self.keep_every_steps is not None and step % self.keep_every_steps == 0:
            self._write(trainer, f"step={step}")
        if self._is_due(step):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write last.ckpt, where it is not of this step yet."""
        if self.saved_step != trainer.global_step:
            self._write(trainer, "last")
            self.saved_step = trainer.global_step

    def _write(self, trainer: L.Trainer, name: str) -> None:
        if self.restore_run_folder and trainer.is_global_zero and not self.folder.parent.exists():
            self.restore_run_folder()
        # First the curves that lead up to it: a run that goes on from here does not draw them again.
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def _is_due(self, step: int) -> bool:
        return step % self.training.checkpoint_every_steps == 0 or step == self.training.max_steps

    def validates(self, step: int) -> bool:
        return step % self.training.validate_every_steps == 0 or step == self.training.max_steps

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss_nats": self.best_loss_nats, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss_nats = state_dict["best_loss_nats"]
        self.best_step = state_dict["best_step"]
