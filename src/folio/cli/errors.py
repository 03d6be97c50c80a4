"""TODO folio.cli.errors."""

import errno
import functools
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, ParamSpec, TypeVar

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from folio.cli.explain import explain, explain_python
from folio.runtime.errors import FolioError
from folio.runtime.terminal import printable

OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EIO,
}
"""Trouble with files that is no bug: a full disk, a quota, permissions, a folder that has gone, an impossible name."""


LONG_WORD = re.compile(r"(\S{300})\S+")
"""What nobody reads to its end: a number of 5,000 digits, a name of as many letters."""


P = ParamSpec("P")


R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Let `command` end with one line and exit code 2 for what its user can mend; our bugs keep their traceback."""

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
    """End the program with this line (`single_line`), which says what is wrong."""
    with suppress(OSError):  # the disk on which somebody keeps what a program says may be the full one
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def describe_error(error: Exception) -> str | None:
    """What to tell the user who can mend it; None for a bug of ours."""
    if isinstance(error, FolioError):
        return single_line(str(error))
    if isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return single_line(explain(error))
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        where = f"{error.filename}: " if error.filename else ""
        return single_line(f"{where}{error.strerror}; mend that, and type the same again")
    explained = explain_python(error, sys.argv[1:]) if isinstance(error, AttributeError | ValueError) else None
    return None if explained is None else single_line(explained)


def single_line(message: str) -> str:
    """As a terminal may show it: without what it would obey, and with long words cut."""
    return printable(LONG_WORD.sub(r"\1...", message), keep="")
