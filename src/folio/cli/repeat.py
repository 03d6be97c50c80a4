"""repeat=RUN: the config of an earlier run takes the place of a recipe, and the other words of the command change it.

Only Hydra composes a config, so the run becomes an option in its store, at the place in conf/train.yaml that would
otherwise stay empty. The run may come from someone else: its config.yaml is read as plain values through the schema,
none of which names a file to compose, a class or a variable of the environment. Its `paths` are not taken.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from folio.cli.compose import REPEATED
from folio.cli.config_files import read_keys
from folio.cli.resume import read_run_config
from folio.config.section import ConfigError
from folio.runs.folders import find_started_run
from folio.runtime.commands import quote_for_hydra, unquote_for_hydra

NOT_REPEATED = ("paths", "resume", "dry_run")
"""Keys of the checkout and of the command, which a run does not bring along."""


def repeat_run(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return the arguments, and let Hydra compose the run that `repeat=` names, if it is among them.

    `latest` becomes the folder that it means now: each job of a sweep reads the argument again. Raises: FolioError.
    """
    ConfigStore.instance().repo.pop(REPEATED, None)
    typed = dict(_key_and_value(word) for word in arguments if not word.startswith("-"))
    given = typed.get("repeat", "null")
    if given in ("null", ""):  # the schema refuses the empty one
        return list(arguments)
    for other in ("experiment", "resume"):
        if typed.get(other, "null") != "null":
            raise ConfigError(f"repeat={given} and {other}={typed[other]} each give a whole config; leave one out")
    run, output_dir = unquote_for_hydra(given), unquote_for_hydra(typed.get("paths.output_dir", "outputs"))
    folder = find_started_run(run, Path(output_dir), option="repeat")
    _store(_values_to_repeat(folder, typed, conf), conf)
    resolved = f"repeat={quote_for_hydra(str(folder))}"
    return [resolved if _key_and_value(word)[0] == "repeat" else word for word in arguments]


def _key_and_value(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value


def _values_to_repeat(folder: Path, typed: dict[str, str], conf: Path) -> dict[str, Any]:
    """Return the values of the run without those that the command line replaces as a whole."""
    values = read_run_config(folder).model_dump(exclude=set(NOT_REPEATED))
    _check_complete(values, folder)
    if any(key.partition(".")[0] in ("data", "tokenizer") for key in typed):
        values["model"]["vocab_size"] = None  # that of another text or tokenizer is counted again
    for key in typed:
        if (conf / key).is_dir():
            values.pop(key, None)
    if "trainer" in typed:  # its file may also set other keys, and as in a recipe it has the last word
        _remove(values, read_keys(conf / "trainer" / f"{typed['trainer']}.yaml"))
    return values


def _check_complete(values: Any, folder: Path) -> None:
    """Raises: ConfigError for a text that OmegaConf takes for a value that is still to come."""
    if values == "???":
        raise ConfigError(f"{folder / 'config.yaml'} holds ???, which is no value; write another one")
    for inner in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        _check_complete(inner, folder)


def _remove(values: dict[str, Any], keys: dict[str, Any]) -> None:
    """Remove nested keys from nested values."""
    for key, inner in keys.items():
        if isinstance(inner, dict) and isinstance(values.get(key), dict):
            _remove(values[key], inner)
        else:
            values.pop(key, None)


def _store(values: dict[str, Any], conf: Path) -> None:
    """Put the values into Hydra's store, after the options of their groups, so that no key of another one is left."""
    options = {group: section.get("name") for group, section in values.items() if isinstance(section, dict)}
    options.pop("debug", None)  # composed after the run, whose values are those of its mode
    chosen: list[dict[str, Any]] = [
        {f"override /{group}": name} for group, name in options.items() if (conf / group / f"{name}.yaml").is_file()
    ]
    for group, empty in (("callbacks", "default"), ("logger", "none")):
        if group in values:
            names = [name for name in values[group] if (conf / group / f"{name}.yaml").is_file()]
            chosen.append({f"override /{group}": names or [empty]})
    node = OmegaConf.create({"defaults": chosen, **_escaped(values)})
    ConfigStore.instance().store("run", node, group=REPEATED, package="_global_", provider="repeat")


def _escaped(value: Any) -> Any:
    """Return plain values in which OmegaConf resolves nothing: `${...}` in a text stays these characters."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
