"""Lightning's strategies for many devices, and where they find each other."""

import os

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy

from folio.config import ConfigError, TrainerConfig
from folio.models.blocks import Block
from folio.processes import Place
from folio.training.world import World, join


def cluster_environment(place: Place | None) -> ClusterEnvironment:
    """Who tells a process its rank. Named outright: Lightning would guess from variables that may be of others."""
    if place is None or place.started_by == "train.py":
        return LightningEnvironment()
    if place.started_by == "torchrun":
        return TorchElasticEnvironment()
    # Saving and requeueing are up to folio.training.stopping; Lightning's way would do both once more, at SIGUSR1.
    return SLURMEnvironment(auto_requeue=False)


def meet(place: Place | None, accelerator: str) -> World:
    """The world that a process belongs to, once all of its processes are there. Raises: ConfigError."""
    if place is None:
        return World()
    environment = cluster_environment(place)
    try:
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{place.started_by} has not told where the first process is: {error}") from None
    return join(place, accelerator)


def build_strategy(config: TrainerConfig, world: World) -> Strategy | str:
    """How weights and gradients lie on the devices; for one device that has them whole, Lightning's own choice."""
    if config.strategy == "fsdp":
        # "full": a checkpoint is one file of whole tensors, which one device or another number of them can read.
        return FSDPStrategy(auto_wrap_policy={Block}, state_dict_type="full", use_orig_params=True)
    if world.size == 1:
        return "auto"
    # Buffers are constants here, and gradients are needed once only: in the buckets that are sent.
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
