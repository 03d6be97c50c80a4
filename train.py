"""Train a GPT: python train.py [group=option] [key=value] ...   (python train.py --help lists them)."""

from folio.runtime.signals import exit_on_signals, ignore_signals_at_exit
from folio.runtime.startup import fast_imports

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

import sys
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig

from folio.cli.compose import job_folder, load_config, task_overrides
from folio.cli.corpus import check_data, prepared_data
from folio.cli.errors import one_line_errors
from folio.cli.resume import check_same_experiment, check_same_text, load_requeued_config, load_resumed_config
from folio.config.updates import with_vocab_size
from folio.distributed.environment import check_processes, rank_from_environment, silence_nonzero_ranks
from folio.runs.folders import create_run_folder, find_resumable_run, missing_for_resume
from folio.runs.requeue import remember_job, requeued_run
from folio.sweeps.manifest import override_keys, replay_command, varied_keys
from folio.sweeps.search import build_pruner
from folio.sweeps.worker import sweep_aware


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@sweep_aware
def main(cfg: DictConfig) -> float | None:
    """Compose, check, prepare the data, run. What can be found wrong without torch is, before it is imported."""
    config = load_config(cfg)
    output_dir, job = Path(config.paths.output_dir), job_folder()
    resumed = find_resumable_run(config.resume, output_dir) if config.resume else None
    if resumed:
        config = load_resumed_config(config, resumed)
    elif job:
        resumed = None if missing_for_resume(job) else job
    elif resumed := requeued_run(output_dir):
        config = load_requeued_config(config, resumed)
    rank_info = rank_from_environment()
    check_processes(config.trainer, rank_info)
    data = prepared_data(config)
    if resumed:
        check_same_text(resumed, data.train.info.source_sha256)
    config = with_vocab_size(config, data.tokenizer.vocab_size)
    if resumed and resumed == job:
        check_same_experiment(config, job)
    check_data(config, data)

    with fast_imports():
        from folio.distributed.devices import check_devices, resolve_device

        device = resolve_device(config.trainer)  # before Lightning is imported: there may be no such device
        check_devices(config.trainer, device.accelerator)
        from folio.distributed.strategies import init_distributed
        from folio.training.context import RunOrigin, build_context
        from folio.training.run import run

    overrides = task_overrides()
    origin = RunOrigin(
        overrides,
        compared=varied_keys(job) if job else override_keys(overrides),
        pruner=build_pruner(job) if job else None,
        more_jobs_follow=job is not None,
    )
    distributed = init_distributed(rank_info, device.accelerator)
    folder = distributed.broadcast(lambda: resumed or job or create_run_folder(output_dir, config.run_name))
    remember_job(output_dir, folder)
    context = build_context(config, data, device, folder, resumed is not None, origin, distributed.world_size)
    loss = run(context, data, partial(prepared_data, config), distributed)
    distributed.destroy()
    return loss


@ignore_signals_at_exit()
@one_line_errors
def start() -> None:
    """Hydra reads sys.argv: the command as typed, or the one that it stands for."""
    silence_nonzero_ranks()
    sys.argv[1:] = replay_command(sys.argv[1:])
    main()


if __name__ == "__main__":
    start()
