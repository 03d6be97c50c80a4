"""Report what a user can fix in one line with exit code 2. Our own bugs keep their traceback."""

import functools
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, ParamSpec, TypeVar

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from folio.cli.explain import explain_composing_error, explain_hydra_error, explain_python_error
from folio.runtime.errors import FolioError, explain_machine_error, explain_os_error
from folio.runtime.terminal import printable

LONG_WORD = re.compile(r"(\S{300})\S+")
"""A word too long to show whole, such as a number of 5,000 digits."""

COMPOSING = {"hydra._internal.config_loader_impl", "hydra.core.override_parser.overrides_parser"}
"""Hydra's modules that compose configs and read overrides."""

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap `command` so that an error that its user can fix is printed in one line and exits with code 2."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            message = describe_error(error)
            if message is None:
                raise
        exit_with_error(message)

    return wrapper


def exit_with_error(message: str) -> NoReturn:
    """Print the message as the reason and exit with code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def describe_error(error: Exception, arguments: Sequence[str] | None = None) -> str | None:
    """Return one line about an error that the user can fix; None for a bug of ours.

    `arguments` are the words of the command, those of the command line if not given.
    """
    if isinstance(error, FolioError):
        return single_line(str(error))
    if isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return single_line(explain_hydra_error(error))
    machine = explain_machine_error(error)
    if machine is not None:
        return single_line(machine)
    if isinstance(error, OSError):
        problem = explain_os_error(error)
        return None if problem is None else single_line(f"{problem}; fix this and rerun the command")
    if isinstance(error, AttributeError | ValueError):
        explained = explain_python_error(error, sys.argv[1:] if arguments is None else arguments)
        if explained is not None:
            return single_line(explained)
    return single_line(explain_composing_error(error)) if _is_from_composing(error) else None


def _is_from_composing(error: Exception) -> bool:
    """Return whether Hydra failed while it composed a config, on what the user typed or wrote, outside our own code."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    ours = [index for index, module in enumerate(modules) if module.partition(".")[0] == "folio"]
    if ours and ours[-1] == len(modules) - 1:
        return False
    # Hydra calls our reader of files, which may fail in a library on a strange file: still a fault of the file.
    callers = [index for index in ours if modules[index] != "folio.cli.config_files"]
    return any(module in COMPOSING for module in modules[callers[-1] + 1 if callers else 0 :])


def single_line(message: str) -> str:
    """Return the message fit for a terminal: control characters escaped, long words cut."""
    return printable(LONG_WORD.sub(r"\1...", message), keep="")
