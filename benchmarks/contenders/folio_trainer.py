"""The whole path of train.py, stopped between blocks of steps."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from benchmarks.contenders.protocol import Line, Spec
from benchmarks.contenders.step_timer import Turnstile, open_data
from benchmarks.contenders.training_loops import n_position_parameters, write_weights
from folio.config.run import RunConfig
from folio.distributed.context import SINGLE_PROCESS
from folio.distributed.devices import resolve_device
from folio.objectives.evaluation import measure
from folio.runtime.console import start_log
from folio.training.assembly import TrainingParts
from folio.training.context import RunOrigin, build_context
from folio.training.trainer import build_trainer
from folio.training.trainer_state import ends_step


class NoMoreStepsError(Exception):
    """Ends a training that nobody wants to see the end of."""


class Gate(Callback):
    """Comes last, and in its hook waits for the next command: what is timed is everything between two such hooks."""

    def __init__(self, turnstile: Turnstile) -> None:
        self.turnstile = turnstile
        self.checkpoint_s: list[float] = []
        self._micro_losses: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._last_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._wait(trainer)

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
            self.turnstile.done(self._losses, self.checkpoint_s)
            self._wait(trainer)

    def _wait(self, trainer: L.Trainer) -> None:
        self._losses, self.checkpoint_s = [], []
        n_steps = self.turnstile.wait()
        if n_steps is None:
            raise NoMoreStepsError
        self._last_step = trainer.global_step + n_steps


def serve_folio(spec: Spec, line: Line, rss_before: int) -> None:
    """What folio.training.run does with a config, without the end of it."""
    config = RunConfig.model_validate(spec.config)
    data, device, folder = open_data(spec, config), resolve_device(config.trainer), Path(spec.folder)
    start_log(folder / "train.log")
    context = build_context(config, data, device, folder, resumed=False, origin=RunOrigin(), n_ranks=1)
    run = TrainingParts(context, data, SINGLE_PROCESS)
    model = run.module.model
    if spec.weights is not None:
        write_weights(model, spec.weights)

    def validate() -> float:
        loss = measure(model, run.datamodule.validation, device.torch_device)["loss_nats"]
        model.train()
        return loss

    turnstile = Turnstile(line, device.torch_device, validate)
    gate = Gate(turnstile)
    trainer = build_trainer(config, device, run.loggers, [*run.callbacks(), gate])
    time_checkpoints(trainer, gate)
    turnstile.open(model, n_position_parameters(run.module.model.config), rss_before)
    with suppress(NoMoreStepsError):
        trainer.fit(run.module, run.datamodule)


def time_checkpoints(trainer: L.Trainer, gate: Gate) -> None:
    """Note how long each save takes: there are more in a short measurement than in a run."""
    save = trainer.save_checkpoint

    def timed(*args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        save(*args, **kwargs)
        gate.checkpoint_s.append(time.perf_counter() - started)

    trainer.save_checkpoint = timed  # type: ignore[method-assign]
