"""The command of a sweep: as it was typed, and typed again in short."""

import re
from collections.abc import Sequence
from pathlib import Path

from folio.runtime.errors import FolioError
from folio.sweeps.manifest import find_sweep, read_record

OUTPUT_DIR = "outputs"
"""paths.output_dir of conf/train.yaml."""

MULTIRUN = ("-m", "--multirun")


def whole_command(arguments: Sequence[str]) -> list[str]:
    """The arguments of train.py, in full where `sweep=<folder>` stands for a command that sweep.json keeps.

    That is so where nothing else of the experiment is typed beside it. What is typed of Hydra's own, as in
    hydra/launcher=joblib, comes to the words of that time.

    Raises: FolioError where that folder is none of a sweep.
    """
    words = [word for word in arguments if not word.startswith(("-", "hydra.", "hydra/", "paths.output_dir="))]
    options = [word for word in arguments if word.startswith("-")]
    if len(words) != 1 or not words[0].startswith("sweep=") or not set(options) <= set(MULTIRUN):
        return list(arguments)
    asked = words[0].partition("=")[2]
    places = [word.partition("=")[2] for word in arguments if word.startswith("paths.output_dir=")]
    folder = find_sweep(_bare(asked), Path(_bare(places[-1]) if places else OUTPUT_DIR))
    _, *before = read_record(folder)["command"] or [""]
    for word in before:
        if not is_harmless(word):
            raise FolioError(
                f"sweep={asked}: {word} is not taken from a file; type the whole command and sweep={asked}"
            )
    added = [word for word in arguments if word not in before and word not in options]
    kept = [word for word in before if not word.startswith("sweep=")]
    return [*kept, *added]


def is_harmless(word: str) -> bool:
    """Whether a word from sweep.json says what to train and how many at once, and nothing that names code to run."""
    if word.startswith("-"):
        return word in MULTIRUN
    if "${" in word:  # would read the environment
        return False
    is_hydras = word.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0].startswith("hydra")
    return not is_hydras or re.fullmatch(r"hydra/launcher=\w+|hydra\.launcher\.n_jobs=-?\d+", word) is not None


def _bare(value: str) -> str:
    """Without the quotes in which a path with special signs is typed."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0]).replace("\\\\", "\\")
    return value
