"""Read the configs of runs that an older version of Folio started."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from folio.config.run import RunConfig
from folio.models.transformer_config import ModelOptions

FIRST_OPTIONS = (
    "family",
    "context_length",
    "n_layers",
    "n_heads",
    "d_model",
    "d_ff",
    "dropout",
    "bias",
    "tie_weights",
    "norm_position",
    "norm",
    "activation",
    "qk_norm",
    "init",
)
"""The options of `ModelOptions` in checkpoint format 2. All others are newer, and their defaults are the old ways."""

NEW_KEYS: dict[str, Any] = {
    "training.on_nan": "stop",
    "training.max_nan_steps": 10,
    "optimizer.adamw_learning_rate": None,
    "optimizer.split_fused": False,
    **{f"model.{option.name}": option.default for option in fields(ModelOptions) if option.name not in FIRST_OPTIONS},
    "positional_encoding.init": "normal",
    "positional_encoding.width": None,
    "positional_encoding.rotary_fraction": 1.0,
    "positional_encoding.rotary_scaling": None,
    "callbacks.checkpoint.keep_every_epochs": None,
    "data.text_suffixes": [],
    "trainer.profiler": None,
    "data.mask_documents": False,
    "data.prompt_field": None,
    "data.completion_field": None,
    "data.test_fraction": 0.0,
    "training.loss_on": "all",
    "objective.token_noise": 0.0,
    "tags": [],
    "notes": None,
}
"""Keys added since checkpoint format 2, with the values that reproduce what Folio did before it had them."""

KEYS_OF_OPTIONS = {
    "objective.token_noise": ("causal_lm",),
    "optimizer.adamw_learning_rate": ("muon",),
    "optimizer.split_fused": ("muon",),
    "data.text_suffixes": ("text_files",),
    "data.prompt_field": ("text_files",),
    "data.completion_field": ("text_files",),
    "data.test_fraction": ("text_file", "text_files", "huggingface", "token_files"),
}
"""New keys that only these options of their group have."""


def migrate_config(values: Any) -> Any:
    """Return the plain values of a config with the keys it lacks added. The schema then refuses all other faults."""
    values = deepcopy(values)
    logger = values.get("logger") if isinstance(values, dict) else None
    if isinstance(logger, dict) and isinstance(logger.get("name"), str):  # a run had one logger, without arguments
        values["logger"] = {} if logger["name"] == "none" else {logger["name"]: {}}
    for section, name, key in list(_missing(values)):
        section[name] = NEW_KEYS[key]
    return values


DECIDE_THE_MODEL = ("data", "tokenizer", "model", "positional_encoding", "conditioning", "objective")
"""Keys and sections that say what a model computes and reads. A reader must know all of them."""


def read_stored_config(values: Any) -> tuple[RunConfig, list[str]]:
    """Return the config of a run whose model is to be used, and the keys of it that this checkout does not know.

    A run of another branch or a newer version may have options of training that do not matter for its model.

    Raises: pydantic.ValidationError for any other fault.
    """
    values = migrate_config(values)
    unknown: list[str] = []
    while True:
        try:
            return RunConfig.model_validate(values), unknown
        except ValidationError as error:
            ignored = [
                problem["loc"]
                for problem in error.errors()
                if problem["type"] == "extra_forbidden" and problem["loc"][0] not in DECIDE_THE_MODEL
            ]
            if not ignored:
                raise
            for location in ignored:
                section = values
                for part in location[:-1]:
                    section = section.get(part, section)  # the tag of a union is no key
                section.pop(location[-1], None)
                unknown.append(".".join(map(str, location)))


def missing_keys(values: Any) -> list[str]:
    """Return the keys that `migrate_config` adds."""
    return [key for _, _, key in _missing(values)]


def _missing(values: Any) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield each missing key: its section, its name in the section, and its full name."""
    for key in NEW_KEYS:
        *path, name = key.split(".")
        section = values
        for group in path:
            section = section.get(group) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name in section:
            continue
        if key not in KEYS_OF_OPTIONS or section.get("name") in KEYS_OF_OPTIONS[key]:
            yield section, name, key
