"""The exception for everything that a user can fix."""


class FolioError(ValueError):
    """A user's mistake or a broken file, explained in one complete line.

    The message names the key or file, its value, the rule it breaks and the remedy. Entry points print it and exit
    with status 2. A bug of our own is an ``assert`` instead and keeps its traceback.
    """
