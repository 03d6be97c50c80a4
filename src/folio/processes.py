"""Who started the processes of a run, and how many there are. Imports nothing that takes time.

`python train.py trainer=ddp` starts them itself (`folio.training.launch`); torchrun and SLURM's srun start one
`train.py` for each device, and say in the environment which is which.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from folio.config import ConfigError, TrainerConfig

Starter = Literal["train.py", "torchrun", "srun"]


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train one model together."""

    rank: int
    size: int
    local_rank: int
    """On its machine."""
    local_size: int
    started_by: Starter

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def place_from_environment(environment: Mapping[str, str] = os.environ) -> Place | None:
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
    return Place(int(rank), int(size), int(local_rank), int(local_size), starter)


def check_processes(trainer: TrainerConfig, place: Place | None) -> None:
    """Whether as many processes were started as the config asks for. Raises: ConfigError."""
    asked = f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}"
    if place is None:
        if trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: nobody has started processes on the other machines; run "
                f"torchrun --nnodes {trainer.num_nodes} --nproc-per-node {trainer.devices} train.py ..., or srun "
                "python train.py ... in a job of SLURM"
            )
        return
    n_nodes = max(1, place.size // place.local_size)
    if (place.local_size, n_nodes) != (trainer.devices, trainer.num_nodes):
        raise ConfigError(
            f"{asked}: {place.started_by} has started {place.size} processes, {place.local_size} on each machine; add "
            f"trainer.devices={place.local_size} trainer.num_nodes={n_nodes}"
        )


def leave_words_to_the_first() -> None:
    """Keep the other processes that torchrun or srun started from saying everything once more; errors are heard."""
    try:
        place = place_from_environment()
    except (ConfigError, ValueError):
        return  # told where the config is checked
    if place is not None and not place.is_first:
        silence()


def silence() -> None:
    """Let standard output end here, also that of libraries written in C."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
