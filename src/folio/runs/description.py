"""Write and read the files of a run folder that describe the run."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from folio.config.migrations import migrate_config, read_stored_config
from folio.config.run import RunConfig
from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.state import state_to_json
from folio.runs.folders import read_config
from folio.runtime.files import write_atomically, write_json
from folio.runtime.plain_yaml import parse_yaml
from folio.runtime.terminal import printable
from folio.runtime.untrusted import UntrustedFileError, read_json, read_text

UNRECORDED = ("resume", "dry_run")
"""Keys of a command, not of the run."""

MAX_COMMENTS = 1000


def write_description(
    folder: Path,
    config: RunConfig,
    tokenizer: Tokenizer,
    summary: dict[str, Any],
    overrides: list[str],
    resumed_at: int | None = None,
) -> None:
    """Write config.yaml, overrides.json, preflight.json and tokenizer.json. A resumed run keeps its overrides.

    If a resumed run has another config than before, comments at the top of config.yaml say what changed after which
    step: a run is repeated by its last config, and read by all of them.
    """
    write_json(folder / "preflight.json", summary)
    values = config.model_dump()
    comments = [] if resumed_at is None else _comments(folder / "config.yaml", values, resumed_at)
    text = "".join(f"{line}\n" for line in comments) + yaml.safe_dump(values, sort_keys=False)
    write_atomically(folder / "config.yaml", text.encode())
    if not (folder / "overrides.json").exists():
        write_json(folder / "overrides.json", overrides)
    # Checkpoints hold the tokenizer as well. This file can be read without torch, so a bad prompt is refused at once.
    write_atomically(folder / "tokenizer.json", state_to_json(tokenizer.state()))


def read_overrides(folder: Path) -> list[str]:
    """Return the words with which a run was started; none if they cannot be read."""
    try:
        words = read_json(folder / "overrides.json")
    except (OSError, UntrustedFileError):
        return []
    return [printable(word, keep="") for word in words if isinstance(word, str)] if isinstance(words, list) else []


def _comments(file: Path, values: dict[str, Any], resumed_at: int) -> list[str]:
    """Return the comments that config.yaml has, and one more if its values change now."""
    try:
        text = read_text(file)
        before = flatten(migrate_config(parse_yaml(text, file)))
    except (OSError, UntrustedFileError):
        return []
    comments = list(takewhile(lambda line: line.startswith("# "), text.splitlines()))[:MAX_COMMENTS]
    now = flatten(values)
    changed = [key for key in {**before, **now} if key not in UNRECORDED and before.get(key) != now.get(key)]
    if changed:
        shown_changes = (f"{key} {before.get(key, 'absent')!r} -> {now.get(key, 'absent')!r}" for key in changed)
        comments.append(printable(f"# after step {resumed_at}: {', '.join(shown_changes)}", keep=""))
    return comments


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys."""
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


def config_beside(checkpoint: Path) -> RunConfig | None:
    """Return the config in the run folder of a checkpoint, without torch; None if it has none that is valid.

    It serves to refuse an option at once. The checkpoint has its own config, which decides.
    """
    try:
        config, _ = read_stored_config(read_config(checkpoint.parent.parent))
        config.transformer_config(config.model.vocab_size or 0)
    except ValueError:  # FolioError is one
        return None
    return config
