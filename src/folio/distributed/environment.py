"""Who started the processes of a run, and how many there are. Imports nothing that takes time.

`python train.py trainer=ddp` starts them itself (`folio.distributed.launcher`); torchrun and SLURM's srun start one
`train.py` for each device, and say in the environment which is which.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from folio.config.run import ConfigError
from folio.config.trainer import TrainerConfig

Starter = Literal["train.py", "torchrun", "srun"]


@dataclass(frozen=True)
class RankInfo:
    """Where a process stands among those that train one model together."""

    rank: int
    size: int
    local_rank: int
    """On its machine."""
    local_size: int
    started_by: Starter

    @property
    def is_global_zero(self) -> bool:
        return self.rank == 0


def rank_from_environment(environment: Mapping[str, str] = os.environ) -> RankInfo | None:
    """The place that torchrun or srun gave this process; None where it was started alone.

    A batch script of SLURM has its variables as well, yet is one process: only what srun starts has a step.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        starter: Starter = "torchrun"
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif "SLURM_STEP_ID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        starter = "srun"
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
    else:
        return None
    rank, size, local_rank, local_size = (environment.get(name, "1") for name in names)
    if int(size) == 1:
        return None
    if starter == "srun" and names[-1] not in environment:
        raise ConfigError(f"srun started {size} tasks without --ntasks-per-node; add it, so that each finds its device")
    return RankInfo(int(rank), int(size), int(local_rank), int(local_size), starter)


def check_processes(trainer: TrainerConfig, rank_info: RankInfo | None) -> None:
    """Whether as many processes were started as the config asks for. Raises: ConfigError."""
    asked = f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}"
    if rank_info is None:
        if trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: nobody has started processes on the other machines; run "
                f"torchrun --nnodes {trainer.num_nodes} --nproc-per-node {trainer.devices} train.py ..., or srun "
                "python train.py ... in a job of SLURM"
            )
        return
    n_nodes = max(1, rank_info.size // rank_info.local_size)
    if (rank_info.local_size, n_nodes) != (trainer.devices, trainer.num_nodes):
        raise ConfigError(
            f"{asked}: {rank_info.started_by} has started {rank_info.size} processes, {rank_info.local_size} on each "
            f"machine; add trainer.devices={rank_info.local_size} trainer.num_nodes={n_nodes}"
        )


def leave_words_to_the_first() -> None:
    """Keep the other processes that torchrun or srun started from saying everything once more; errors are heard."""
    try:
        rank_info = rank_from_environment()
    except (ConfigError, ValueError):
        return  # told where the config is checked
    if rank_info is not None and not rank_info.is_global_zero:
        silence()


def silence() -> None:
    """Let standard output end here, also that of libraries written in C."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
