"""Train a GPT: python train.py [group=option] [key=value] ...   (python train.py --help lists them)."""

from folio.runtime.signals import ignore_signals_at_exit
from folio.runtime.startup import fast_imports, prepare_process

if __name__ == "__main__":  # before the other imports, which take a second
    prepare_process()

import sys
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig

from folio.cli.arguments import order_arguments
from folio.cli.compose import job_folder, load_config, task_overrides
from folio.cli.corpus import check_data, prepare_data, suggest_moved_text, with_sample_prompt
from folio.cli.errors import one_line_errors
from folio.cli.resume import check_same_experiment, check_same_text, load_requeued_config, load_resumed_config
from folio.config.run import RunConfig
from folio.config.updates import with_vocab_size
from folio.data.prepared import PreparedData
from folio.distributed.environment import check_processes, rank_from_environment, silence_nonzero_ranks
from folio.runs.folders import create_run_folder, find_resumable_run, missing_for_resume
from folio.runs.requeue import remember_job, requeued_run
from folio.runtime.errors import FolioError
from folio.runtime.files import check_output_folder
from folio.sweeps.manifest import override_keys, varied_keys
from folio.sweeps.replay import replay_command
from folio.sweeps.search import build_pruner
from folio.sweeps.worker import sweep_aware


@ignore_signals_at_exit()
@one_line_errors
def start() -> None:
    """Run Hydra, which reads sys.argv and calls `main`: once for a run, once for each job of a sweep."""
    silence_nonzero_ranks()
    arguments = order_arguments(sys.argv[1:], Path(__file__).with_name("conf"))
    sys.argv[1:] = replay_command(arguments)  # sweep=FOLDER stands for words that its sweep.json keeps
    main()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@sweep_aware
def main(cfg: DictConfig) -> float | None:
    """Check the config, prepare the data, and train. Returns the final validation loss in nats.

    Everything that can be checked without torch is checked before torch is imported.
    """
    command, job = load_config(cfg), job_folder()
    config, resumed = choose_run(command, job)
    rank_info = rank_from_environment()
    check_processes(config.trainer, rank_info)
    if not (resumed or job):
        check_output_folder(Path(config.paths.output_dir), "paths.output_dir")
    config, data = prepare(config, resumed, job)

    with fast_imports():
        from folio.distributed.devices import check_devices, resolve_device

        device = resolve_device(config.trainer)  # before Lightning is imported, because there may be no such device
        check_devices(config.trainer, device.accelerator)
        from folio.distributed.strategies import init_distributed
        from folio.runs.checkpoints import stored_config
        from folio.training.context import RunOrigin, build_context
        from folio.training.run import run

    if resumed:
        check_same_experiment(config, stored_config(resumed / "checkpoints" / "last.ckpt"), resumed)
    overrides, output_dir = task_overrides(), Path(command.paths.output_dir)
    distributed = init_distributed(rank_info, device.accelerator)
    folder = distributed.broadcast(lambda: resumed or job or create_run_folder(output_dir, config.run_name))
    remember_job(output_dir, folder)
    origin = RunOrigin(
        overrides,
        compared=varied_keys(job) if job else override_keys(overrides),
        pruner=build_pruner(job) if job else None,
        more_jobs_follow=job is not None,
    )
    context = build_context(config, data, device, folder, resumed is not None, origin, distributed.world_size)
    loss_nats = run(context, data, partial(prepare_data, config), distributed)
    distributed.destroy()
    return loss_nats


def choose_run(command: RunConfig, job: Path | None) -> tuple[RunConfig, Path | None]:
    """Return the config of the run, and its folder if it is resumed.

    A run is resumed with `resume=`, as an unfinished job of a sweep, or as a job that SLURM requeued.
    """
    output_dir = Path(command.paths.output_dir)
    if command.resume:
        folder = find_resumable_run(command.resume, output_dir)
        return load_resumed_config(command, folder), folder
    if job:
        return command, None if missing_for_resume(job) else job
    if requeued := requeued_run(output_dir):
        return load_requeued_config(command, requeued), requeued
    return command, None


def prepare(config: RunConfig, resumed: Path | None, job: Path | None) -> tuple[RunConfig, PreparedData]:
    """Return the config with the vocabulary size of the tokenizer, and the data, prepared and checked."""
    try:
        data = prepare_data(config)
    except FolioError as error:
        raise (suggest_moved_text(error, config, "data.path=<where it is now>") if resumed else error) from None
    if resumed:
        check_same_text(resumed, data.train.info.source_sha256)
    config = with_vocab_size(config, data.tokenizer.vocab_size)
    check_data(config, data)
    typed = any(override.lstrip("+").startswith("callbacks.samples.prompt=") for override in task_overrides())
    return with_sample_prompt(config, data, typed), data


if __name__ == "__main__":
    start()
