"""Run folders and their files: find, create, list, describe, checkpoint and rewind them. Imports no lightning.

The package can be called: `folio.runs("outputs")` lists runs.
"""

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from folio.runs.listing import RunList


class _RunsPackage(ModuleType):
    """A package that is also the function `folio.runs`, because importing a package sets its name in `folio`."""

    def __call__(self, folder: str | os.PathLike[str] = "outputs") -> "RunList":
        from folio.runs.listing import list_runs

        return list_runs(folder)


sys.modules[__name__].__class__ = _RunsPackage
