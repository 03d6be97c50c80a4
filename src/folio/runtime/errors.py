"""The one exception that stands for something a user can mend."""


class FolioError(ValueError):
    """A user's mistake or a broken file, told in one line that is complete by itself.

    The message names the key or file, its value, the rule it breaks and the remedy. Entry points print it
    and exit with status 2; a bug of our own is an ``assert`` instead and keeps its traceback.
    """
