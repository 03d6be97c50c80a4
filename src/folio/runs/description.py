"""Write the files of a run folder that describe the run."""

from pathlib import Path
from typing import Any

import yaml

from folio.config.run import RunConfig
from folio.data.tokenizers.base import Tokenizer
from folio.data.tokenizers.state import state_to_json
from folio.runtime.files import write_atomically, write_json


def write_description(
    folder: Path, config: RunConfig, tokenizer: Tokenizer, summary: dict[str, Any], overrides: list[str]
) -> None:
    """Write config.yaml, overrides.json, preflight.json and tokenizer.json. A resumed run keeps its overrides."""
    write_json(folder / "preflight.json", summary)
    write_atomically(folder / "config.yaml", yaml.safe_dump(config.model_dump(), sort_keys=False).encode())
    if not (folder / "overrides.json").exists():
        write_json(folder / "overrides.json", overrides)
    # Checkpoints hold the tokenizer as well. This file can be read without torch, so a bad prompt is refused at once.
    write_atomically(folder / "tokenizer.json", state_to_json(tokenizer.state()))
