"""What a run that an older Folio began meant by what its config does not say yet."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

NEW_KEYS: dict[str, Any] = {
    "training.on_nan": "stop",
    "training.max_nan_steps": 10,
    "optimizer.adamw_learning_rate": None,  # of Muon
    "model.attention_dropout": None,
}
"""Keys that came after checkpoints of format 2, and the values at which nothing is different from before."""


def migrate_config(config: Any) -> Any:
    """A run's plain config with the keys that its Folio did not have; the rest is left for the schema to refuse."""
    config = deepcopy(config)
    for section, leaf, key in list(_missing(config)):
        section[leaf] = NEW_KEYS[key]
    return config


def missing_keys(config: Any) -> list[str]:
    """Those that `migrate_config` adds."""
    return [key for _, _, key in _missing(config)]


def _missing(config: Any) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The section, the key in it, and its full name."""
    for key in NEW_KEYS:
        name, _, leaf = key.partition(".")
        section = config.get(name) if isinstance(config, dict) else None
        if not isinstance(section, dict) or leaf in section:
            continue
        if name != "optimizer" or section.get("name") == "muon":
            yield section, leaf, key
