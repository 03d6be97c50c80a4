"""The exception for everything that a user can fix, and the errors of the system that are no bug.

Imports nothing slow.
"""

import errno
import os
import resource
import traceback


class FolioError(ValueError):
    """A user's mistake or a broken file, explained in one complete line.

    The message names the key or file, its value, the rule it breaks and the remedy. Entry points print it and exit
    with status 2. A bug of our own is an ``assert`` instead and keeps its traceback.
    """


FIXABLE_ERRNOS = {
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
    errno.EMFILE,
    errno.ENFILE,
    errno.ENXIO,
}
"""Errors of the file system that are no bug: a full disk, a quota, permissions, a removed folder, an invalid name, a
limit on open files."""


MEMORY_PHRASES = (
    "can't allocate memory",
    "bad_alloc",
    "could not create a memory",
    "Cannot allocate memory",
    "can't start new thread",
)
"""Texts of errors about main memory, for which torch and the system have no exception type."""


OUR_PACKAGES = ("folio", "__main__", "__mp_main__", "benchmarks")


def explain_os_error(error: OSError) -> str | None:
    """Return the file and the reason of an error that the user can fix; None for a bug of ours."""
    if error.errno not in FIXABLE_ERRNOS:
        return None
    reason = str(error.strerror)
    if error.errno == errno.EMFILE:
        reason += f", of which the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} (ulimit -n)"
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason


def is_memory_error(error: BaseException) -> bool:
    """Return whether the machine, or a limit on the process, has no more main memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(phrase in str(error) for phrase in MEMORY_PHRASES)
    )


def explain_machine_error(error: BaseException) -> str | None:
    """Return one line about a lack of memory, or a library that cannot be imported; None for any other error.

    A library is refused by a value in the environment (TORCH_LOGS), or by a limit on memory: not by a bug of ours.
    """
    first_line = str(error).strip().partition("\n")[0][:200]
    reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    if (library := _importing(error)) is not None:
        found = [name for name in sorted(os.environ) if name.startswith((library.upper(), f"PY{library.upper()}"))]
        variables = f"the environment ({', '.join(found)}), " if found else ""
        return f"cannot import {library} ({reason}); check {variables}the memory limit (ulimit -v) and the installation"
    if is_memory_error(error):
        return f"out of memory ({reason}); use a smaller model or text, or raise the limit (ulimit -v)"
    return None


def _importing(error: BaseException) -> str | None:
    """Return the library whose import an error ended; None if it ended none, or one of our own modules."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    modules = (str(frame.f_globals.get("__name__")) for frame in frames if frame.f_code.co_name == "<module>")
    packages = (module.partition(".")[0] for module in modules)
    return next((package for package in packages if package not in OUR_PACKAGES), None)
