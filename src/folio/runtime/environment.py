"""Environment variables that would break a promise of Folio: corrected, or refused in one line.

docs/reliability.md has the table. Imports nothing slow.
"""

import os
from collections.abc import MutableMapping

from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable

INTEGERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
    "JSM_NAMESPACE_RANK",
)
"""Variables of torchrun, SLURM and LSF that libraries read as integers, some of them when they are imported."""

IGNORED = ("HYDRA_MAIN_MODULE", "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
"""Variables that would let Hydra read another conf/, and torch another kind of file."""


def correct_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Change the variables whose value could only do harm."""
    for name in IGNORED:
        environment.pop(name, None)
    environment["MPLBACKEND"] = "agg"  # figures are files; other values need a screen, or do not exist
    if environment.get("HOME") == "":
        del environment["HOME"]  # ~/x would be /x
    columns = environment.get("COLUMNS", "1")
    if not columns.isdecimal() or int(columns[:9]) == 0:
        del environment["COLUMNS"]  # rich would make every line empty


def check_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Raises: FolioError if a variable, or a current folder that is gone, would end every program in a traceback."""
    for name in INTEGERS:
        value = environment.get(name)
        if value is not None and not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise FolioError(
                f"{printable(f'{name}={value[:100]}', keep='')} in the environment must be an integer of 0 or more; "
                f"run `unset {name}`, or start Folio with torchrun or srun, which set it"
            )
    try:
        os.getcwd()
    except OSError as error:
        raise FolioError(f"the current folder cannot be used ({error.strerror}); change to one that exists") from None
