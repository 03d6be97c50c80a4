"""Combine the stored config of a run with the overrides of the command that resumes it."""

from pathlib import Path
from typing import Any

from folio.cli.compose import task_overrides, validate
from folio.cli.paths import note_other_data_dir
from folio.config.callbacks import CallbacksConfig
from folio.config.checks import check_config
from folio.config.migrations import migrate_config, missing_keys
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runs.description import flatten
from folio.runs.folders import read_config
from folio.runtime import commands
from folio.runtime.untrusted import UntrustedFileError, read_json_object, shown

RESUMABLE_KEYS = (
    "training.max_steps",
    "training.micro_batch_size",
    "training.validate_every_steps",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.on_nan",
    "training.max_nan_steps",
    "trainer",
    "logger",
    "callbacks",
    "tags",
    "notes",
    "paths",
    "data.path",
    "deterministic",
    "dry_run",
    "resume",
)
"""Keys and sections that a resumed run may change: its length, its observation, its machine. The rest defines it.

A text may have moved (data.path), but must be the same: `check_same_text`."""


def read_run_config(folder: Path) -> RunConfig:
    """Return the config of a run folder, which may be an older Folio's. Raises: FolioError."""
    values = read_config(folder)
    if missing := missing_keys(values):
        print(f"{folder} is from an older Folio; newer keys take their old defaults: {', '.join(missing)}")
    return validate(migrate_config(values), {"": folder / "config.yaml"})


def load_resumed_config(composed: RunConfig, folder: Path) -> RunConfig:
    """Return the config of the run in `folder`, with the overrides of the command line taken from `composed`.

    Raises: FolioError if an override would change the experiment.
    """
    stored = read_run_config(folder)
    values, given = stored.model_dump(), composed.model_dump()
    for override in task_overrides():
        key = override.partition("=")[0].lstrip("+~")
        if not is_resumable(key):
            raise ConfigError(
                f"{override}: a resumed run keeps its experiment; only {', '.join(RESUMABLE_KEYS[:-1])} may change"
            )
        *sections, name = key.split(".")
        source, target = given, values
        for section in sections:
            # The run may lack a section, such as an optional callback's, whose keys then arrive one by one.
            target[section] = target.get(section) or {}
            source, target = source[section], target[section]
        chosen = source.get(name)  # an option that was set to null is in no config
        if key == "callbacks":  # callbacks=[default,ema] chooses options; samples and checkpoints stay the run's
            kept = {section: target[name].get(section) for section in CallbacksConfig.model_fields}
            chosen = kept | composed.callbacks.options
        if key == "trainer" and given["trainer"]["threads"] is None:  # trainer=cpu says nothing of threads
            chosen = given["trainer"] | {"threads": values["trainer"]["threads"]}
        target[name] = chosen
    known = stored.paths.data_dir
    note_other_data_dir(known, Path(composed.paths.data_dir), commands.override("paths.data_dir", known))
    return _checked(values | _of_the_command(composed))


def load_requeued_config(composed: RunConfig, folder: Path) -> RunConfig:
    """Return the config of the run in `folder`, which a scheduler restarted with the same command.

    Raises: FolioError.
    """
    print(f"the job was restarted: resuming {folder}")
    return _checked(migrate_config(read_config(folder)) | _of_the_command(composed))


def _of_the_command(composed: RunConfig) -> dict[str, Any]:
    """Return the values that a resumed run takes from the command, not from its own config.

    The folder of a run may come from someone else, and must not say where files are written.
    """
    return {"resume": None, "dry_run": composed.dry_run, "paths": composed.paths.model_dump()}


def _checked(values: dict[str, Any]) -> RunConfig:
    config = validate(values)
    check_config(config)
    return config


def check_same_experiment(config: RunConfig, stored: Any, folder: Path) -> None:
    """Raises: ConfigError unless a run would resume as the experiment that its checkpoint was trained as.

    config.yaml may have been edited by hand, and a sweep may compose another config than before.

    Args:
        stored: the plain config in the checkpoint.
    """
    before, now = flatten(migrate_config(stored)), flatten(config.model_dump())
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key) or is_resumable(key) or key == "name":
            continue
        raise ConfigError(
            f"{key}={shown(now.get(key))}: {folder} was trained with {shown(before.get(key))}, and a resumed run keeps "
            f"its experiment; restore {folder / 'config.yaml'}, or start a new run"
        )


def is_resumable(key: str) -> bool:
    """Return whether a resumed run may change a key."""
    return any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE_KEYS)


def check_same_text(folder: Path, text_sha256: str, given: str = "") -> None:
    """Raises: ConfigError unless a text is the one that the run in `folder` started with.

    The tokens of another could have another meaning, and its curves would not compare.

    Args:
        given: the option that names the text, if it is not where it was.
    """
    file, named = folder / "preflight.json", given or f"resume={folder}"
    try:
        stored = read_json_object(file)["text_sha256"]
    except FileNotFoundError:
        if given:
            raise ConfigError(f"{named}: {file} does not exist, so the text cannot be compared; leave it out") from None
        return
    except (KeyError, UntrustedFileError):
        raise ConfigError(f"{named}: {file} is damaged; move it away, or start a new run") from None
    if stored != text_sha256:
        raise ConfigError(
            f"{named}: the text is not the one that the run started with; give that one, or start a new run"
        )
