"""The config of a run from an older Folio keeps its meaning."""

from collections.abc import Callable
from typing import Any

import pytest

from folio.config.migrations import NEW_KEYS, migrate_config, missing_keys
from folio.config.run import RunConfig


def older(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config as the Folio of format 2 wrote it."""
    for key in NEW_KEYS:
        *path, leaf = key.split(".")
        section = config
        for group in path:
            section = section[group]
        section.pop(leaf, None)
    return config


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_config_without_the_new_keys_keeps_its_meaning(optimizer: str, compose: Callable[..., RunConfig]) -> None:
    config = compose(f"optimizer={optimizer}")
    old = older(config.model_dump())
    assert RunConfig.model_validate(migrate_config(old)) == config
    assert ("optimizer.adamw_learning_rate" in missing_keys(old)) == (optimizer == "muon")


def test_a_current_config_stays_the_same_and_no_argument_is_modified(compose: Callable[..., RunConfig]) -> None:
    config = compose("optimizer=muon", "optimizer.adamw_learning_rate=0.01", "training.on_nan=skip").model_dump()
    assert migrate_config(config) == config
    assert missing_keys(config) == []
    old = older(compose().model_dump())
    migrate_config(old)
    assert missing_keys(old)


@pytest.mark.parametrize("foreign", [None, [], "text"])
def test_values_that_are_no_config_are_left_for_the_schema(foreign: Any) -> None:
    assert migrate_config(foreign) == foreign


@pytest.mark.parametrize("foreign", [{}, {"training": None, "optimizer": []}])
def test_sections_that_are_none_are_left_for_the_schema(foreign: dict[str, Any]) -> None:
    assert migrate_config(foreign) == foreign | {"tags": [], "notes": None}
