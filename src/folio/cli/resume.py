"""Combine the stored config of a run with the overrides of the command that resumes it."""

from pathlib import Path
from typing import Any

from folio.cli.compose import task_overrides, validate
from folio.config.checks import check_config
from folio.config.migrations import migrate_config, missing_keys
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runs.folders import read_config
from folio.runtime.untrusted import UntrustedFileError, read_json_object

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
    "paths",
    "deterministic",
    "dry_run",
    "resume",
)
"""Keys and sections that a resumed run may change: its length, its observation, its machine. The rest defines it."""


def load_resumed_config(composed: RunConfig, folder: Path) -> RunConfig:
    """Return the config of the run in `folder`, with the overrides of the command line taken from `composed`.

    Raises: ConfigError if an override would change the experiment.
    """
    values = read_config(folder)
    if missing := missing_keys(values):
        print(f"{folder} is from an older Folio; newer keys take their old defaults: {', '.join(missing)}")
    values = migrate_config(values)
    given = composed.model_dump()
    for override in task_overrides():
        key = override.partition("=")[0].lstrip("+~")
        if not any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE_KEYS):
            raise ConfigError(
                f"{override}: a resumed run keeps its experiment; only {', '.join(RESUMABLE_KEYS[:-1])} may change"
            )
        *sections, name = key.split(".")
        source, target = given, values
        for section in sections:
            # The run may lack a section, such as an optional callback's, whose keys then arrive one by one.
            target[section] = target.get(section) or {}
            source, target = source[section], target[section]
        target[name] = source[name]
    # These belong to this command. The run's config.yaml must repeat the run from its first step.
    return _checked(values | {"resume": None, "dry_run": composed.dry_run})


def load_requeued_config(composed: RunConfig, folder: Path) -> RunConfig:
    """Return the config of the run in `folder`, which a scheduler restarted with the same command.

    Raises: ConfigError.
    """
    print(f"the job was restarted: resuming {folder}")
    return _checked(migrate_config(read_config(folder)) | {"dry_run": composed.dry_run})


def _checked(values: dict[str, Any]) -> RunConfig:
    config = validate(values)
    check_config(config)
    return config


def check_same_experiment(config: RunConfig, folder: Path) -> None:
    """Raises: ConfigError if a sweep would resume the job in `folder` with another experiment."""
    stored, composed = migrate_config(read_config(folder)), config.model_dump()
    for key in sorted((stored.keys() | composed.keys()) - set(RESUMABLE_KEYS)):
        before, after = stored.get(key), composed.get(key)
        if key == "training":
            before, after = _without_resumable(before), _without_resumable(after)
        if before != after:
            raise ConfigError(
                f"{folder} was started with another {key} than this command composes; remove that folder to start it "
                "again, or start a new sweep"
            )


def _without_resumable(training: Any) -> dict[str, Any] | None:
    if not isinstance(training, dict):
        return None
    return {key: value for key, value in training.items() if f"training.{key}" not in RESUMABLE_KEYS}


def check_same_text(folder: Path, text_sha256: str) -> None:
    """Raises: ConfigError if a run would resume on another text than it started with.

    Its tokens could have another meaning by now, and its curves would not compare.
    """
    file = folder / "preflight.json"
    try:
        stored = read_json_object(file)["text_sha256"]
    except FileNotFoundError:
        return
    except (KeyError, UntrustedFileError):
        raise ConfigError(f"resume={folder}: {file} is damaged; move it away, or start a new run") from None
    if stored != text_sha256:
        raise ConfigError(
            f"resume={folder}: the text of data.path has changed since the run started; restore the old text, or "
            "start a new run"
        )
