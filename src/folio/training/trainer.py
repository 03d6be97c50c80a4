"""Configure Lightning's Trainer."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from folio.config.run import RunConfig
from folio.distributed.context import SINGLE_PROCESS, DistributedContext
from folio.distributed.devices import Device
from folio.distributed.precision_probe import MIXED_RMS_NORM
from folio.distributed.sharding import from_own_rows, own_rows
from folio.distributed.strategies import ShardedStrategy, build_strategy, cluster_environment
from folio.runs.checkpoints import read_checkpoint, save_checkpoint
from folio.runs.shard_writer import ShardWriter
from folio.runs.shards import ShardedCheckpoint, ShardedTensor, remove_unused_shards
from folio.training.profiling import RunProfiler


class AtomicCheckpointIO(CheckpointIO):
    """Makes Lightning write and read checkpoints with `folio.runs.checkpoints`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_checkpoint(checkpoint, Path(path))
        remove_unused_shards(Path(path).parent)  # it may take the place of a sharded checkpoint

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class ShardedCheckpointIO(AtomicCheckpointIO):
    """Makes a ShardedStrategy write sharded checkpoints, and read of any checkpoint what belongs to this process."""

    def __init__(self, strategy: ShardedStrategy) -> None:
        self._strategy = strategy
        self._writer = ShardWriter()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self._writer.save(checkpoint, Path(path), checkpoint["global_step"])

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path), mmap=True, read=self._read_own_rows)

    def _read_own_rows(self, checkpoint: ShardedCheckpoint, tensor: ShardedTensor) -> torch.Tensor:
        mesh, shape = self._strategy.device_mesh["data_parallel"], torch.Size(tensor.shape)
        rows = own_rows(shape[0], mesh)
        return from_own_rows(checkpoint.rows(tensor, rows.start, rows.stop), shape, mesh)

    def teardown(self) -> None:
        """Wait for the last checkpoint. Raises: FolioError if it could not be written."""
        self._writer.wait()


def build_trainer(
    config: RunConfig,
    device: Device,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    folder: Path,
    distributed: DistributedContext = SINGLE_PROCESS,
    profiler: RunProfiler | None = None,
) -> L.Trainer:
    """Return Lightning's Trainer, with everything disabled that Folio's callbacks do."""
    training, accumulation = config.training, config.accumulate_grad_batches
    if not distributed.is_global_zero and config.logger:
        loggers = [DummyLogger()]  # LearningRateMonitor and others refuse to work without one
    _silence_advice()
    strategy = build_strategy(config.trainer, distributed)
    checkpoint_io = ShardedCheckpointIO(strategy) if isinstance(strategy, ShardedStrategy) else AtomicCheckpointIO()
    return L.Trainer(
        accelerator=device.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=strategy,
        precision=device.precision,  # type: ignore[arg-type]
        deterministic=config.deterministic,
        benchmark=False,
        profiler=profiler,
        detect_anomaly=config.trainer.detect_anomaly,
        max_steps=training.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulation,
        val_check_interval=training.validate_every_steps * accumulation,
        check_val_every_n_epoch=None,  # steps, not epochs, decide when to validate
        num_sanity_val_steps=0,
        logger=list(loggers),
        callbacks=list(callbacks),
        plugins=[checkpoint_io, cluster_environment(distributed.rank_info)],
        default_root_dir=folder,
        log_every_n_steps=training.log_every_steps,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _silence_advice() -> None:
    """Suppress advice that does not apply here. Other warnings are still shown."""
    os.environ.setdefault("LIGHTNING_DISABLE_TIPS", "1")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # that a single sharded process is connected
    # What a callback was asked to say, such as ModelSummary.
    logging.getLogger("lightning.pytorch.callbacks").setLevel(logging.INFO)
    # A ModelCheckpoint finds its folder filled when its run is resumed.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    # Lightning itself calls this deprecated function of torch.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # torch 2.13 renamed it; older versions know only this name.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated.*")
    # The metrics logged for callbacks are already the same in each process.
    warnings.filterwarnings("ignore", message=".*to accumulate the metric across devices.*")
    # Which the average of Folio's sharded weights does support.
    warnings.filterwarnings("ignore", message=".*using the WeightAveraging callback with a model that overrides.*")
    # Of an encoder-decoder the loss gets a part of the hidden states, and changes none of them in place.
    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module .* returned a view tensor.*")
    # A resumed run may do without a callback that it had, if the user says so.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
    # A run shorter than training.log_every_steps logs at its last step.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # Making a batch is a single gather, cheaper than sending it from a worker process.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The profiler writes the events of each cycle at its end.
    warnings.filterwarnings("ignore", message=".*Profiler clears events at the end of each cycle.*")
    warnings.filterwarnings("ignore", message=MIXED_RMS_NORM)
    # Batches depend only on the step, so a resumed run continues exactly.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
