"""Train a GPT: python train.py [group=option] [key=value] ...   (python train.py --help lists them)."""

from folio.startup import end_at_signals, lasting_imports

if __name__ == "__main__":  # before the imports, which take a second
    end_at_signals()

from pathlib import Path

import hydra
from omegaconf import DictConfig

from folio.cli import (
    check_data,
    check_same_text,
    compared_keys,
    load_config,
    one_line_errors,
    prepared_data,
    resumed_config,
    sweep_folder,
)
from folio.config import settle_vocabulary
from folio.runs import find_run, new_run_folder


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@one_line_errors
def main(cfg: DictConfig) -> float | None:
    """Compose, check, prepare the data, run. What can be found wrong without torch is, before it is imported."""
    config = load_config(cfg)
    resumed = find_run(config.resume, Path(config.paths.output_dir)) if config.resume else None
    if resumed:
        config = resumed_config(config, resumed)
    data = prepared_data(config)
    if resumed:
        check_same_text(resumed, data.train.info.source_sha256)
    config = settle_vocabulary(config, data.tokenizer.vocab_size)
    check_data(config, data)

    with lasting_imports():
        from folio.training.devices import resolve_device

        device = resolve_device(config.trainer)  # before Lightning is imported: there may be no such device
        folder = resumed or sweep_folder() or new_run_folder(Path(config.paths.output_dir), config.run_name)

        from folio.training.run import run

    return run(config, data, device, folder, resumed=resumed is not None, compared=compared_keys())


if __name__ == "__main__":
    one_line_errors(main)()
