"""Lightning's strategies and cluster environments."""

import os

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy

from folio.config.section import ConfigError
from folio.config.trainer import TrainerConfig
from folio.distributed.context import SINGLE_PROCESS, DistributedContext, init_process_group
from folio.distributed.environment import RankInfo
from folio.models.blocks import Block


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
        # "full": a checkpoint is one file of whole tensors, which any number of devices can read.
        return FSDPStrategy(auto_wrap_policy={Block}, state_dict_type="full", use_orig_params=True)
    if distributed.world_size == 1:
        return "auto"
    # Buffers are constants, and gradients are needed only in the buckets that are sent.
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
