"""TODO folio.cli.resume."""

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from folio.cli.compose import validate
from folio.config.checks import check_config
from folio.config.migrations import migrate_config, missing_keys
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.runs.folders import read_config

# What may change when a run goes on: how long, how it is watched, and on which machine. The rest is the experiment.
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


def load_resumed_config(config: RunConfig, folder: Path) -> RunConfig:
    """The run's own config with what the command line changes of it. Raises: ConfigError for what must stay."""
    values = read_config(folder)
    if later := missing_keys(values):
        print(f"{folder} was begun by an older Folio; what came later is as it was then: {', '.join(later)}")
    values = migrate_config(values)
    composed = config.model_dump(mode="python")
    for override in HydraConfig.get().overrides.task:
        key = override.partition("=")[0].lstrip("+~")
        if not any(key == allowed or key.startswith(allowed + ".") for allowed in RESUMABLE_KEYS):
            raise ConfigError(
                f"{override}: a resumed run keeps its experiment; only {', '.join(RESUMABLE_KEYS[:-1])} may change"
            )
        *parents, leaf = key.split(".")
        source, target = composed, values
        for parent in parents:
            # Of a section that the run did not have, as a callback of one's own, the parts come one by one.
            target[parent] = target.get(parent) or {}
            source, target = source[parent], target[parent]
        target[leaf] = source[leaf]
    # Of this start and not of the run, whose config.yaml repeats it from the beginning.
    values["resume"], values["dry_run"] = None, config.dry_run
    resumed = validate(values)
    check_config(resumed)
    return resumed


def load_requeued_config(config: RunConfig, folder: Path) -> RunConfig:
    """The config of a run whose job a scheduler has started anew, with the same words. Raises: ConfigError."""
    print(f"the job was started again: going on in {folder}")
    again = validate(migrate_config(read_config(folder)) | {"dry_run": config.dry_run})
    check_config(again)
    return again


def check_same_experiment(config: RunConfig, folder: Path) -> None:
    """Raises: ConfigError where a job of a sweep would go on as another experiment than it began as."""
    began, now = migrate_config(read_config(folder)), config.model_dump(mode="python")
    for key in sorted((began.keys() | now.keys()) - set(RESUMABLE_KEYS)):
        before, after = began.get(key), now.get(key)
        if key == "training":
            before, after = _without_resumable(before), _without_resumable(after)
        if before != after:
            raise ConfigError(
                f"{folder} was begun with another {key} than this command composes; remove that folder to begin it "
                "anew, or start a new sweep"
            )


def _without_resumable(training: Any) -> dict[str, Any] | None:
    if not isinstance(training, dict):
        return None
    return {key: value for key, value in training.items() if f"training.{key}" not in RESUMABLE_KEYS}


def check_same_text(folder: Path, text_sha256: str) -> None:
    """Raises: ConfigError where a run would go on with another text than it began with.

    Its tokens could mean something else by now, and its curves would not compare.
    """
    file = folder / "preflight.json"
    try:
        began_with = json.loads(file.read_text(encoding="utf-8"))["text_sha256"] if file.is_file() else text_sha256
    except (KeyError, RecursionError, TypeError, ValueError):
        raise ConfigError(f"resume={folder}: {file} is damaged; move it away, or start a new run") from None
    if began_with != text_sha256:
        raise ConfigError(
            f"resume={folder}: the text of data.path has changed since the run began; bring the old one back, "
            "or start a new run"
        )
