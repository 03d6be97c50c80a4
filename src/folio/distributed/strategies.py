"""Lightning's strategies for many devices, and where they find each other."""

import os

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy

from folio.config.run import ConfigError
from folio.config.trainer import TrainerConfig
from folio.distributed.context import DistributedContext, init_process_group
from folio.distributed.environment import RankInfo
from folio.models.blocks import Block


def cluster_environment(rank_info: RankInfo | None) -> ClusterEnvironment:
    """Who tells a process its rank. Named outright: Lightning would guess from variables that may be of others."""
    if rank_info is None or rank_info.started_by == "train.py":
        return LightningEnvironment()
    if rank_info.started_by == "torchrun":
        return TorchElasticEnvironment()
    # StopOnSignal saves and requeues; Lightning would do both a second time, at SIGUSR1.
    return SLURMEnvironment(auto_requeue=False)


def init_distributed(rank_info: RankInfo | None, accelerator: str) -> DistributedContext:
    """The world that a process belongs to, once all of its processes are there. Raises: ConfigError."""
    if rank_info is None:
        return DistributedContext()
    environment = cluster_environment(rank_info)
    try:
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{rank_info.started_by} has not told where the first process is: {error}") from None
    return init_process_group(rank_info, accelerator)


def build_strategy(config: TrainerConfig, distributed: DistributedContext) -> Strategy | str:
    """How weights and gradients lie on the devices; for one device that has them whole, Lightning's own choice."""
    if config.strategy == "fsdp":
        # "full": a checkpoint is one file of whole tensors, which one device or another number of them can read.
        return FSDPStrategy(auto_wrap_policy={Block}, state_dict_type="full", use_orig_params=True)
    if distributed.size == 1:
        return "auto"
    # Buffers are constants here, and gradients are needed once only: in the buckets that are sent.
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
