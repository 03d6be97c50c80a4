"""Lightning with nothing of Folio around it: the floor of what a program on Lightning costs per step."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.contenders.folio_trainer import NoMoreStepsError, StepTimerCallback
from benchmarks.contenders.protocol import Channel, WorkerSpec
from benchmarks.contenders.step_timer import StepTimer, open_data
from benchmarks.contenders.training_loops import BareLoop, n_position_parameters
from folio.config.run import RunConfig
from folio.data.batches.batch import Batch
from folio.objectives.losses import batch_loss


class StepBatches(IterableDataset[Batch]):
    """The batches of the bare loop, without end."""

    def __init__(self, loop: BareLoop) -> None:
        self.loop = loop

    def __iter__(self) -> Iterator[Batch]:
        number = 0
        while True:
            yield self.loop.batch(number)
            number += 1


class PlainModule(L.LightningModule):
    """The steps of the bare loop as a LightningModule that logs nothing."""

    def __init__(self, loop: BareLoop) -> None:
        super().__init__()
        self.model = loop.folio_model
        self.loop = loop

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.loop.set_learning_rate(batch_idx)
        return batch_loss(self.model, batch)[0]

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip here: Lightning's option refuses a fused optimizer in mixed precision."""
        self.loop.clip_gradients()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.loop.optimizer


def serve_lightning(spec: WorkerSpec, channel: Channel, rss_before: int) -> None:
    """Do the steps that are asked for in Lightning's Trainer, with no logger, checkpoint or progress."""
    config = RunConfig.model_validate(spec.config)
    loop = BareLoop(spec, config, open_data(spec, config))
    timer = StepTimer(channel, loop.torch_device, loop.validate)
    trainer = L.Trainer(
        accelerator=loop.device.accelerator,
        devices=1,
        precision=loop.device.precision,  # type: ignore[arg-type]
        max_steps=config.training.max_steps,
        callbacks=[StepTimerCallback(timer)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    timer.report_ready(loop.model, n_position_parameters(loop.model_config), rss_before)
    with suppress(NoMoreStepsError):
        trainer.fit(PlainModule(loop), DataLoader(StepBatches(loop), batch_size=None))
