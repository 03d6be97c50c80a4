"""The versions that a run used."""

import platform
from importlib.metadata import version

import torch

from folio.runtime.version import VERSION


def versions() -> dict[str, str]:
    """Return the versions of everything that affects the numbers of a run."""
    return {
        "folio": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
    }
