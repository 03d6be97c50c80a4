"""Read YAML of unknown origin: plain values alone. Beside `folio.runtime.untrusted`, so that JSON needs no yaml."""

from pathlib import Path
from typing import Any

import yaml

from folio.runtime.untrusted import MAX_DEPTH, MAX_DIGITS, MIB, read_text, refuse, shown

MAX_YAML_BYTES = MIB
"""Limit for a config. The largest of ours has two kilobytes."""

MAX_EVENTS = 20_000
"""Limit for the values and brackets of a config, whose construction in Python takes 0.1 ms each."""

SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader, which is ten times as fast; PyYAML's own where it was built without."""


def read_yaml(path: Path, max_bytes: int = MAX_YAML_BYTES) -> Any:
    """Return the value of a YAML file of plain values: no tags that make objects, no aliases, no interpolation.

    Raises: UntrustedFileError; OSError.
    """
    return parse_yaml(read_text(path, max_bytes), path)


def parse_yaml(text: str, path: Path) -> Any:
    """Return the value of a YAML text that was read from `path`. Raises: UntrustedFileError."""
    try:
        _check_events(text)
        return yaml.load(text, SafeLoader)
    except RecursionError:
        refuse(path, "is nested too deeply")
    except (TypeError, ValueError, yaml.YAMLError) as error:  # TypeError: a set or mapping as a key
        refuse(path, f"is not plain YAML ({shown(error)})")


def _check_events(text: str) -> None:
    """Raises: YAMLError for what makes much of little.

    A few lines of aliases stand for billions of values; deep nesting and numbers of thousands of digits take quadratic
    time.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(text, SafeLoader)):
        if number > MAX_EVENTS:
            raise yaml.YAMLError(f"it holds more than {MAX_EVENTS:,} values")
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias, which Folio does not write")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and is_long_number(event):
            raise yaml.YAMLError(f"it holds a number of {len(event.value):,} digits")
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} levels deep")


def is_long_number(event: yaml.ScalarEvent) -> bool:
    """Return whether an unquoted scalar could be a number of more than MAX_DIGITS digits."""
    return event.implicit[0] and len(event.value) > MAX_DIGITS and event.value.lstrip("+-")[:1].isdigit()
