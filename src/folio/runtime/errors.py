"""The exception for everything that a user can fix, and the errors of the system that are no bug."""

import errno


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


def explain_os_error(error: OSError) -> str | None:
    """Return the file and the reason of an error that the user can fix; None for a bug of ours."""
    if error.errno not in FIXABLE_ERRNOS:
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
