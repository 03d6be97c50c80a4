"""TODO folio.training.trainer."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from folio.config.run import RunConfig
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.distributed.devices import Device
from folio.distributed.strategies import build_strategy, cluster_environment
from folio.runs import checkpoints


class AtomicCheckpointIO(CheckpointIO):
    """Lets Lightning write and read checkpoints by `folio.runs.checkpoints`: whole files of plain data."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoints.save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return checkpoints.load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def build_trainer(
    config: RunConfig,
    device: Device,
    loggers: list[Logger],
    callbacks: list[Callback],
    distributed: DistributedContext = SINGLE_PROCESS,
) -> L.Trainer:
    """Lightning's Trainer, with everything off that Folio's own callbacks do."""
    training, accumulation = config.training, config.accumulate_grad_batches
    _quieten_lightning()
    return L.Trainer(
        accelerator=device.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=build_strategy(config.trainer, distributed),
        precision=device.precision,  # type: ignore[arg-type]
        deterministic=config.deterministic,
        benchmark=False,
        detect_anomaly=config.trainer.detect_anomaly,
        max_steps=training.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulation,
        val_check_interval=training.validate_every_steps * accumulation,
        check_val_every_n_epoch=None,  # steps, not epochs, decide when to validate
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), cluster_environment(distributed.rank_info)],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _quieten_lightning() -> None:
    """Drop advice that does not hold here; other warnings stay."""
    os.environ.setdefault("LIGHTNING_DISABLE_TIPS", "1")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # One of Lightning's own calls into torch.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # torch from 2.13 on has another word for it, and says so; older ones have not.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated.*")
    # What is logged for callbacks is the same in each process already.
    warnings.filterwarnings("ignore", message=".*to accumulate the metric across devices.*")
    # A batch is one gather, cheaper than handing it over from a worker process.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Where a loader stands follows from the step alone, so it goes on exactly.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
