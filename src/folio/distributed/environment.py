"""Which of a run's processes this one is, and what started them. Imports nothing slow.

`python train.py trainer=ddp` starts its processes itself (`folio.distributed.launcher`). torchrun and SLURM's srun
start one `train.py` per device and tell each its rank in environment variables.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from folio.config.section import ConfigError
from folio.config.trainer import TrainerConfig

LauncherName = Literal["train.py", "torchrun", "srun"]


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process among those that train one model together."""

    rank: int
    world_size: int
    local_rank: int
    """Rank among the processes of this machine."""
    local_world_size: int
    """Number of processes on this machine."""
    started_by: LauncherName

    @property
    def is_global_zero(self) -> bool:
        return self.rank == 0


SINGLE_RANK = RankInfo(rank=0, world_size=1, local_rank=0, local_world_size=1, started_by="train.py")
"""A process that was started alone. It may start others."""


def rank_from_environment(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """Return the rank that torchrun or srun gave this process; SINGLE_RANK if neither started it.

    A SLURM batch script has SLURM's variables too, but is a single process: only srun's processes belong to a step.

    Raises: ConfigError if srun did not say how many processes there are per machine, or a rank is out of range.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        launcher: LauncherName = "torchrun"
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif "SLURM_STEP_ID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        launcher = "srun"
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
    else:
        return SINGLE_RANK
    rank, world_size, local_rank, local_world_size = (int(environment.get(name, "1")) for name in names)
    if world_size <= 1:
        return SINGLE_RANK
    if launcher == "srun" and names[-1] not in environment:
        raise ConfigError(
            f"srun started {world_size} tasks without --ntasks-per-node; add it, so that each task finds its device"
        )
    if rank >= world_size or local_rank >= local_world_size:
        raise ConfigError(
            f"{names[0]}={rank} {names[1]}={world_size} {names[2]}={local_rank} {names[3]}={local_world_size}: ranks "
            f"count from 0 and are below the numbers of processes; leave these variables to {launcher}"
        )
    return RankInfo(rank, world_size, local_rank, local_world_size, launcher)


def check_processes(trainer: TrainerConfig, rank_info: RankInfo) -> None:
    """Raises: ConfigError if the number of processes is not the one that the config asks for."""
    if rank_info.started_by == "train.py":
        if trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: train.py cannot start processes on other machines; run "
                f"torchrun --nnodes {trainer.num_nodes} --nproc-per-node {trainer.devices} train.py ..., or srun "
                "python train.py ... in a SLURM job"
            )
        return
    num_nodes = max(1, rank_info.world_size // rank_info.local_world_size)
    if (rank_info.local_world_size, num_nodes) != (trainer.devices, trainer.num_nodes):
        raise ConfigError(
            f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}: {rank_info.started_by} has "
            f"started {rank_info.world_size} processes, {rank_info.local_world_size} on each machine; add "
            f"trainer.devices={rank_info.local_world_size} trainer.num_nodes={num_nodes}"
        )


def silence_nonzero_ranks() -> None:
    """Silence the standard output of all ranks but 0, so that each line is printed once. Errors are still printed."""
    try:
        rank_info = rank_from_environment()
    except (ConfigError, ValueError):
        return  # reported when the config is checked
    if not rank_info.is_global_zero:
        silence_stdout()


def silence_stdout() -> None:
    """Discard everything written to standard output from now on, also by libraries written in C."""
    sys.stdout.flush()
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)
