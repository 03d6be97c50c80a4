"""Train a GPT: python train.py [group=option] [key=value] ...   (python train.py --help lists them)."""

from folio.runtime.signals import ignore_signals_at_exit
from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the other imports, which take a second
    prepare_process()

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from folio.api.command import execute, prepare_run
from folio.cli.arguments import order_arguments
from folio.cli.compose import load_config
from folio.cli.errors import one_line_errors
from folio.cli.repeat import repeat_run
from folio.distributed.environment import silence_nonzero_ranks
from folio.sweeps.replay import replay_command
from folio.sweeps.worker import sweep_aware


@ignore_signals_at_exit()
@one_line_errors
def start() -> None:
    """Run Hydra, which reads sys.argv and calls `main`: once for a run, once for each job of a sweep."""
    silence_nonzero_ranks()
    conf = Path(__file__).with_name("conf")
    arguments = order_arguments(sys.argv[1:], conf)
    arguments = replay_command(arguments)  # sweep=FOLDER stands for words that its sweep.json keeps
    sys.argv[1:] = repeat_run(arguments, conf)
    main()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@sweep_aware
def main(cfg: DictConfig) -> float | None:
    """Check the config, prepare the data, and train. Returns the final validation loss in nats.

    Everything that can be checked without torch is checked before torch is imported.
    """
    return execute(prepare_run(load_config(cfg))).loss_nats


if __name__ == "__main__":
    start()
