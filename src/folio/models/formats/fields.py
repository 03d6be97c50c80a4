"""How the keys of a config.json and the options of a `TransformerConfig` correspond. Imports no torch."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from folio.models.transformer_config import TransformerConfig
from folio.runtime.untrusted import shown

RESOLVED: dict[str, Callable[[TransformerConfig], Any]] = {
    "d_ff": lambda config: config.feed_forward_width,
    "d_head": lambda config: config.head_width,
    "n_kv_heads": lambda config: config.key_value_heads,
    "attention_dropout": lambda config: config.attention_dropout_rate,
    "attention_bias": lambda config: config.attention_has_bias,
    "tie_weights": lambda config: config.ties_weights,
    "final_norm": lambda config: config.has_final_norm,
    "scale_embedding": lambda config: config.embedding_scale is not None,
}
"""Options for which None stands for another value, and that value."""


class FormatError(ValueError):
    """Raised for a folder without a model that Folio can read, or a model that a format cannot hold; one line."""


@dataclass(frozen=True)
class Problem:
    """An option that a format cannot hold.

    Example:

        >>> str(Problem("norm", "rms_norm", "layer_norm"))
        'only norm=layer_norm, not rms_norm'
    """

    option: str
    value: Any
    needed: Any
    """The value that the format has instead."""

    def __str__(self) -> str:
        return f"only {self.option}={plain(self.needed)}, not {plain(self.value)}"


def plain(value: object) -> str:
    """Return a value as the command line has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def resolved(config: TransformerConfig, option: str) -> Any:
    """Return the value of an option, or the one that its None stands for."""
    return RESOLVED[option](config) if option in RESOLVED else getattr(config, option)


class Field:
    """A part of config.json: some keys, and the options that they decide."""

    options: ClassVar[tuple[str, ...]] = ()
    """The options that `read` returns and `write` expresses."""

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options by name. Raises: FormatError."""
        raise NotImplementedError

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        """Return the keys with their values, for a config without problems."""
        raise NotImplementedError

    def problems(self, config: TransformerConfig) -> Iterator[Problem]:
        """Yield the options whose values these keys cannot express."""
        yield from ()


@dataclass(frozen=True)
class _Single(Field):
    """One option that is one key."""

    option: str
    key: str
    default: Any = None
    """Value of a missing key."""

    @property
    def options(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.option,)

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        return {self.key: resolved(config, self.option)}

    def _value(self, values: Mapping[str, Any]) -> Any:
        return values.get(self.key, self.default)


@dataclass(frozen=True)
class Size(_Single):
    """A whole number; with `nullable`, null stands for the default of the option.

    Example:

        >>> Size("n_layers", "n_layer", 12).read({"n_layer": 3})
        {'n_layers': 3}
    """

    nullable: bool = False

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        value = self._value(values)
        if type(value) is int or (value is None and self.nullable):
            return {self.option: value}
        raise FormatError(f"{self.key}={_json(value)} must be a whole number")


@dataclass(frozen=True)
class Number(_Single):
    """A number above 0."""

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self.option: positive_number(self.key, self._value(values))}


@dataclass(frozen=True)
class Flag(_Single):
    """True or false."""

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        value = self._value(values)
        if not isinstance(value, bool):
            raise FormatError(f"{self.key}={_json(value)} must be true or false")
        return {self.option: value}


@dataclass(frozen=True)
class OneOf(_Single):
    """A name; `names` has Folio's for each, and the first of several is written."""

    names: Mapping[str, str] = None  # type: ignore[assignment]

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        value = self._value(values)
        if not isinstance(value, str) or value not in self.names:
            raise FormatError(f"{self.key}={_json(value)} is not one of {', '.join(self.names)}")
        return {self.option: self.names[value]}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        return {self.key: next(theirs for theirs, ours in self.names.items() if ours == resolved(config, self.option))}

    def problems(self, config: TransformerConfig) -> Iterator[Problem]:
        value, known = resolved(config, self.option), tuple(dict.fromkeys(self.names.values()))
        if value not in known:
            yield Problem(self.option, value, " or ".join(known))


@dataclass(frozen=True)
class Fixed(Field):
    """A key that changes what the model computes, and the only value of it that Folio's models have."""

    key: str
    value: Any
    may_be_missing: bool = True

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        value = values.get(self.key, self.value if self.may_be_missing else None)
        if value != self.value:
            raise FormatError(f"{self.key}={_json(value)} is not {json.dumps(self.value)}, all that Folio supports")
        return {}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        return {self.key: self.value}


class UsualHeads(Field):
    """No keys: each head has its own keys and values, and together they are as wide as the residual stream."""

    options = ("d_head", "n_kv_heads")

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def write(self, config: TransformerConfig) -> dict[str, Any]:
        return {}

    def problems(self, config: TransformerConfig) -> Iterator[Problem]:
        if config.head_width * config.n_heads != config.d_model:
            yield Problem("d_head", config.d_head, None)
        if config.key_value_heads != config.n_heads:
            yield Problem("n_kv_heads", config.n_kv_heads, None)


def positive_number(key: str, value: Any) -> float:
    """Return the value of a key. Raises: FormatError if it is no finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise FormatError(f"{key}={_json(value)} must be a number above 0")
    return float(value)


def _json(value: Any) -> str:
    return shown(json.dumps(value))
