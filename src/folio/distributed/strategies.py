"""Lightning's strategies and cluster environments."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.optim import Optimizer

from folio.config.section import ConfigError
from folio.config.trainer import TrainerConfig
from folio.distributed.context import SINGLE_PROCESS, DistributedContext, init_process_group
from folio.distributed.environment import RankInfo
from folio.distributed.sharding import shard_like


def cluster_environment(rank_info: RankInfo) -> ClusterEnvironment:
    """Return what tells Lightning the rank of this process.

    Passed explicitly: Lightning would guess from environment variables, which may belong to something else.
    """
    if rank_info.started_by == "train.py":
        return LightningEnvironment()
    if rank_info.started_by == "torchrun":
        return TorchElasticEnvironment()
    # StopOnSignal saves and requeues; Lightning would do both a second time, at SIGUSR1.
    return SLURMEnvironment(auto_requeue=False)


def init_distributed(rank_info: RankInfo, accelerator: str) -> DistributedContext:
    """Connect the processes of a run, once all of them have started.

    Raises: ConfigError if the address of rank 0 is not known.
    """
    if rank_info.world_size == 1:
        return SINGLE_PROCESS
    environment = cluster_environment(rank_info)
    try:
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{rank_info.started_by} did not provide the address of rank 0: {error}") from None
    return init_process_group(rank_info, accelerator)


def build_strategy(config: TrainerConfig, distributed: DistributedContext) -> Strategy | str:
    """Return how weights and gradients are laid out over the devices."""
    if config.strategy == "fsdp":
        return ShardedStrategy(data_parallel_size=config.n_processes, tensor_parallel_size=1)
    if distributed.world_size == 1:
        return "auto"
    # Buffers are constants, and gradients are needed only in the buckets that are sent.
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, whose checkpoints have the structure of all others and go through a CheckpointIO.

    Lightning's own checkpoints name the weights in the state of an optimizer, where others count them, and are written
    over the previous one.
    """

    lightning_restore_optimizer = True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the shares of all processes."""
        self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint with this process's share of each tensor, whoever wrote it."""
        checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path)
        assert self.lightning_module is not None
        weights = dict(self.lightning_module.named_parameters(remove_duplicate=False))
        for part in ("state_dict", "current_model_state"):  # with an average of the weights, the weights themselves
            for name, value in checkpoint.get(part, {}).items():
                checkpoint[part][name] = shard_like(value, weights.get(name))
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for number, values in state["state"].items():
                for name, value in values.items():
                    values[name] = shard_like(value, parameters[number])
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def teardown(self) -> None:
        self.checkpoint_io.teardown()
        super().teardown()
