"""One training from a checked command to its run folder: train.py and `folio.train` are two ways to start it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from folio.cli.compose import conf_dir, job_folder, task_overrides
from folio.cli.corpus import check_data, prepare_data, suggest_moved_text, with_sample_prompt
from folio.cli.plugins import plugin_targets
from folio.cli.resume import check_same_experiment, check_same_text, load_requeued_config, load_resumed_config
from folio.config.run import RunConfig
from folio.config.tokenizer import read_tokenizer_file
from folio.config.updates import with_vocab_size
from folio.data.prepared import PreparedData
from folio.data.tokenizers.base import Tokenizer
from folio.distributed.environment import RankInfo, check_processes, rank_from_environment
from folio.runs.folders import create_run_folder, find_resumable_run, missing_for_resume
from folio.runs.requeue import remember_job, requeued_run
from folio.runtime.errors import FolioError
from folio.runtime.files import check_output_folder, remove_if_empty
from folio.runtime.startup import fast_imports
from folio.sweeps.manifest import override_keys, varied_keys
from folio.sweeps.search import build_pruner


@dataclass(frozen=True)
class PreparedRun:
    """A run whose config and data are checked as far as possible without torch."""

    config: RunConfig
    """Config of the run, with the vocabulary size of its tokenizer."""
    data: PreparedData
    output_dir: Path
    resumed: Path | None
    """Run folder to resume; None for a new run."""
    job: Path | None
    """Folder that a sweep assigned to the run; None outside a sweep."""
    rank_info: RankInfo
    plugin_targets: Mapping[str, str]
    """Class of each optional callback and logger, by the dotted key of its option."""


class RunResult(NamedTuple):
    """The end of a run."""

    folder: Path
    loss_nats: float | None
    """Final validation loss; None for a dry run and for a pruned trial."""


def prepare_run(command: RunConfig) -> PreparedRun:
    """Choose the run that a checked command means, and prepare its data. Imports no torch. Raises: FolioError."""
    job = job_folder()
    config, resumed = choose_run(command, job)
    rank_info = rank_from_environment()
    check_processes(config.trainer, rank_info)
    targets = plugin_targets(config, conf_dir())
    if not (resumed or job):
        check_output_folder(Path(config.paths.output_dir), "paths.output_dir")
    elif resumed and not config.dry_run:
        for folder in (resumed, resumed / "checkpoints"):
            check_output_folder(folder, "resume", "fix its permissions, or resume a copy of the run")
    config, data = _prepare_data(config, resumed, job)
    return PreparedRun(config, data, Path(command.paths.output_dir), resumed, job, rank_info, targets)


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


def _prepare_data(config: RunConfig, resumed: Path | None, job: Path | None) -> tuple[RunConfig, PreparedData]:
    """Return the config with the vocabulary size of the tokenizer, and the data, prepared and checked."""
    try:
        data = prepare_data(config, trained=_tokenizer_of(resumed) if resumed else None)
    except FolioError as error:
        raise (suggest_moved_text(error, config, "data.path=<where it is now>") if resumed else error) from None
    if resumed:
        check_same_text(resumed, data.train.info.source_sha256)
    config = with_vocab_size(config, data.tokenizer.vocab_size)
    check_data(config, data)
    typed = any(override.lstrip("+").startswith("callbacks.samples.prompt=") for override in task_overrides())
    return with_sample_prompt(config, data, typed), data


def _tokenizer_of(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a run folder; None if it cannot be read, since the text may give it again."""
    with suppress(OSError, ValueError):
        return read_tokenizer_file(folder / "tokenizer.json")
    return None


def execute(prepared: PreparedRun) -> RunResult:
    """Train. Imports torch and Lightning. Raises: FolioError; SystemExit if a signal stopped the run."""
    config, resumed, job = prepared.config, prepared.resumed, prepared.job
    with fast_imports():
        from folio.distributed.devices import check_devices, resolve_device

        device = resolve_device(config.trainer)  # before Lightning is imported, because there may be no such device
        check_devices(config.trainer, device.accelerator)
        from folio.distributed.strategies import init_distributed
        from folio.runs.checkpoints import stored_config
        from folio.training.assembly import check_initial_weights
        from folio.training.context import RunOrigin, build_context
        from folio.training.plugins import check_plugins
        from folio.training.run import run

    check_plugins(config, prepared.plugin_targets, prepared.data)
    if resumed:
        check_same_experiment(config, stored_config(resumed / "checkpoints" / "last.ckpt"), resumed)
    else:
        check_initial_weights(config)
    overrides = task_overrides()
    distributed = init_distributed(prepared.rank_info, device.accelerator)
    folder = distributed.broadcast(lambda: resumed or job or create_run_folder(prepared.output_dir, config.run_name))
    remember_job(prepared.output_dir, folder)
    origin = RunOrigin(
        overrides,
        compared=varied_keys(job) if job else override_keys(overrides),
        pruner=build_pruner(job) if job else None,
        more_jobs_follow=job is not None,
    )
    with remove_if_empty(folder):
        context = build_context(
            config,
            prepared.data,
            device,
            folder,
            resumed=resumed is not None,
            origin=origin,
            plugin_targets=prepared.plugin_targets,
            n_ranks=distributed.world_size,
        )
        loss_nats = run(
            context, prepared.data, partial(prepare_data, config, trained=prepared.data.tokenizer), distributed
        )
    distributed.destroy()
    return RunResult(folder, loss_nats)
