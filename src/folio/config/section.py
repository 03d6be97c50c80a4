"""Base classes and field types of the config's sections."""

import pkgutil
import types
from collections.abc import Collection, Iterator
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field

from folio.runtime.errors import FolioError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A number from 0 up to, but not including, 1."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A number from 0 to 1."""
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(gt=0, le=2**31 - 1)]
"""A number of steps, sequences or tokens. Larger ones overflow index arrays, or take forever to build them."""
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that becomes part of a folder's name, and therefore cannot contain a path."""
Arguments = dict[str, Any]
"""Arguments of a class that a file of conf/ names, as plain values."""
Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


PLUGIN_GROUPS = ("callbacks", "logger")
"""Groups whose files each add an option under its own name, so that several can be chosen."""
TARGET = "_target_"
"""Key of the class of such an option, which counts only in the files of conf/."""


class ConfigError(FolioError):
    """A config that cannot run. The message gives key, value, rule and remedy in one line."""


class Section(BaseModel):
    """One group of keys. Unknown keys and wrong types are errors, and a section never changes once it is built."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Option(Section):
    """A section that selects a class or function. To add an option is to add a subclass that names its code."""

    code: ClassVar[str]
    """Location of the code as `module:name`. It is no key of the config, so a config cannot name code to run."""

    @classmethod
    def load_code(cls) -> Any:
        """Import and return the class or function that `code` names. The import may load torch."""
        return pkgutil.resolve_name(cls.code)


def sections_by_name(union: Any) -> dict[str, type[Any]]:
    """Return the sections of a union, such as `Optimizers`, by the names that select them."""
    return {name: section for section in get_args(union) for name in get_args(section.model_fields["name"].annotation)}


def without_null(values: Any, keep: Collection[str] = ()) -> Any:
    """Return the options of a group without those that are null, which means that they are not chosen."""
    if not isinstance(values, dict):
        return values
    return {name: value for name, value in values.items() if value is not None or name in keep}


def dotted_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of a schema, including those of its sections and of every option of a union."""
    for name, field in section.model_fields.items():
        yield prefix + name
        members = get_args(field.annotation) if isinstance(field.annotation, types.UnionType) else (field.annotation,)
        for member in members:
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from dotted_keys(member, f"{prefix}{name}.")
