"""Prepare the token files of a corpus without training: python scripts/prepare_data.py tokenizer=cl100k_base"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from folio.cli.arguments import order_arguments
from folio.cli.compose import load_config
from folio.cli.corpus import prepare_data, prepare_part
from folio.cli.errors import one_line_errors
from folio.cli.repeat import repeat_run
from folio.runtime.errors import FolioError


@one_line_errors
def start() -> None:
    """Run Hydra, which reads sys.argv and calls `main`."""
    conf = Path(__file__).resolve().parents[1] / "conf"
    words = repeat_run(order_arguments(sys.argv[1:], conf, script="scripts/prepare_data.py"), conf)
    if "-m" in words or "--multirun" in words:  # parts are no runs, and Hydra's own sweeper starts them
        words.append("hydra/sweeper=basic")
    sys.argv[1:] = words
    try:
        main()
    except Exception as error:
        if not type(error).__module__.startswith("submitit."):
            raise
        said = [line.removeprefix("error: ") for line in str(error).splitlines() if line.startswith("error: ")]
        reason = said[-1] if said else str(error).partition("\n")[0]
        raise FolioError(f"a part is not prepared: {reason}") from None


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@one_line_errors  # inside as well, or Hydra prints a line of its own first
def main(cfg: DictConfig) -> None:
    """Prepare the data of the same overrides as train.py, or verify all shards that are already prepared.

    With part=3/16, prepare a part of it; with part=join/16, join all parts.
    """
    config = load_config(cfg, only_prepares=True)
    data = prepare_data(config, verify_all=True) if config.part is None else prepare_part(config)
    if data is None:
        return
    for file in [*data.files, *([data.open_test()] if data.open_test is not None else [])]:
        info = file.info
        unknown = f", {100 * info.share_unknown:.1f} % of them unknown" if info.n_unknown else ""
        print(f"{file.path}: {info.n_tokens:,} tokens of {info.dtype}{unknown}, {info.n_bytes:,} bytes of text")


if __name__ == "__main__":
    start()
