"""Folio as a contender: everything that train.py does, stopped between blocks of steps."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from benchmarks.contenders.protocol import Channel, WorkerSpec
from benchmarks.contenders.step_timer import StepTimer, open_data
from benchmarks.contenders.training_loops import n_position_parameters
from folio.cli.plugins import plugin_targets
from folio.config.run import RunConfig
from folio.distributed.context import SINGLE_PROCESS
from folio.distributed.devices import resolve_device
from folio.objectives.evaluation import evaluate
from folio.runtime.console import start_log
from folio.training.assembly import TrainingParts
from folio.training.callbacks.base import ends_step
from folio.training.context import RunOrigin, build_context
from folio.training.trainer import build_trainer

CONF = Path(__file__).resolve().parents[2] / "conf"


class NoMoreStepsError(Exception):
    """Raised to leave `fit` when no more steps are asked for."""


class StepTimerCallback(Callback):
    """Waits for the next command in its hooks. It runs last, so everything between two hooks is timed."""

    def __init__(self, timer: StepTimer) -> None:
        self.timer = timer
        self.checkpoint_s: list[float] = []
        self._micro_losses: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._last_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._wait_for_steps(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._micro_losses.append(outputs["loss"] if isinstance(outputs, dict) else outputs)
        if not ends_step(trainer, batch_idx):
            return
        one = len(self._micro_losses) == 1
        self._losses.append(self._micro_losses[0] if one else torch.stack(self._micro_losses).mean())
        self._micro_losses = []
        if trainer.global_step == self._last_step:
            self.timer.finish(self._losses, self.checkpoint_s)
            self._wait_for_steps(trainer)

    def _wait_for_steps(self, trainer: L.Trainer) -> None:
        self._losses, self.checkpoint_s = [], []
        n_steps = self.timer.wait_for_steps()
        if n_steps is None:
            raise NoMoreStepsError
        self._last_step = trainer.global_step + n_steps


def serve_folio(spec: WorkerSpec, channel: Channel, rss_before: int) -> None:
    """Do what folio.training.run does with a config, without its final results."""
    config = RunConfig.model_validate(spec.config)
    data, device, folder = open_data(spec, config), resolve_device(config.trainer), Path(spec.folder)
    start_log(folder / "train.log")
    targets = plugin_targets(config, CONF)
    context = build_context(
        config, data, device, folder, resumed=False, origin=RunOrigin(), plugin_targets=targets, n_ranks=1
    )
    run = TrainingParts(context, data, SINGLE_PROCESS)
    model = run.module.model
    if spec.weights is not None:
        Path(spec.weights).parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), spec.weights)

    def validate() -> float:
        loss = evaluate(model, run.datamodule.validation, device.torch_device)["loss_nats"]
        model.train()
        return loss

    timer = StepTimer(channel, device.torch_device, validate)
    callback = StepTimerCallback(timer)
    trainer = build_trainer(config, device, run.loggers, [*run.callbacks(), callback], folder)
    time_checkpoints(trainer, callback)
    timer.report_ready(model, n_position_parameters(model.config), rss_before)
    with suppress(NoMoreStepsError):
        trainer.fit(run.module, run.datamodule)


def time_checkpoints(trainer: L.Trainer, callback: StepTimerCallback) -> None:
    """Record how long each save takes: a short measurement has more of them per step than a run."""
    save = trainer.save_checkpoint

    def timed(*args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        save(*args, **kwargs)
        callback.checkpoint_s.append(time.perf_counter() - started)

    trainer.save_checkpoint = timed  # type: ignore[method-assign]
