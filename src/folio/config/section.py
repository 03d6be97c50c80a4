"""What every node of the config is made of."""

import pkgutil
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from folio.runtime.errors import FolioError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(gt=0, le=2**31 - 1)]
"""Of steps, sequences or tokens: above, arrays of indices would overflow or take for ever to make."""
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]
Text = Annotated[str, Field(min_length=1)]
Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class ConfigError(FolioError):
    """A config that cannot run: key, value, rule and remedy in one line."""


class Section(BaseModel):
    """A node of the config: unknown keys and wrong types are errors, and nothing changes once it is built."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Option(Section):
    """A section that says where the code lies that it chooses."""

    code: ClassVar[str]
    """`module:name`, imported when a run needs it and not before, for it may import torch. No key of the config."""

    @classmethod
    def load_code(cls) -> Any:
        """The class or function that `code` names."""
        return pkgutil.resolve_name(cls.code)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""Of a folder, so it cannot lead out of the one that it lies in."""
