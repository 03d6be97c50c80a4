"""Turn Hydra's overrides into the jobs of a sweep, and run them with one of Hydra's launchers."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from folio.cli.compose import load_config
from folio.cli.errors import describe_error
from folio.config.hparams_search import SearchConfig
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.distributed.environment import RankInfo, rank_from_environment
from folio.runs.folders import create_folder
from folio.runtime.commands import quote_for_hydra
from folio.runtime.cpus import available_cpus
from folio.runtime.errors import FolioError
from folio.runtime.files import check_writable
from folio.sweeps.manifest import find_sweep, resume_sweep_command
from folio.sweeps.planning import GridAxis, Job, plan_grid
from folio.sweeps.runner import Launch, run_grid, run_search
from folio.sweeps.search import Choice, Dimension, Range, check_space

SWEEP_KEYS = ("sweep", "hparams_search")
"""Keys that apply to the whole sweep, rather than to a job."""

Compose = Callable[[Sequence[str]], RunConfig]
"""Composes and checks the config of a job from its overrides."""


def run_sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> None:
    """Check the command line, then run the sweep.

    Raises: FolioError before anything is written; SystemExit at the end if a job has no result.
    """
    check_hydra_overrides(config)
    check_single_process(rank_from_environment())
    parser = OverridesParser.create(config_loader=context.config_loader)
    overrides = parser.parse_overrides(list(arguments))
    check_sweep_keys(overrides)
    job_overrides = [override for override in overrides if not is_sweep_key(override)]
    compose: Compose = partial(compose_job, context.config_loader, config)
    base = compose([str(override.input_line) for override in overrides if not override.is_sweep_override()])
    search = base.hparams_search
    command = ["train.py", *(word for word in sys.argv[1:] if not word.startswith("sweep="))]
    if search is None:
        jobs = plan_grid([parse_grid_axis(override) for override in job_overrides])
        check_jobs(jobs, compose)
        n_parallel = n_parallel_jobs(config, len(jobs))
        folder = open_sweep_folder(config, base)
        run_grid(folder, jobs, command, build_launch(context, task, config, folder, n_parallel), n_parallel)
    else:
        space, fixed = parse_search_space(search, job_overrides, parser)
        compose(fixed)
        n_parallel = n_parallel_jobs(config, search.n_trials)
        folder = open_sweep_folder(config, base)
        launch = build_launch(context, task, config, folder, n_parallel)
        run_search(folder, search, space, fixed, base.seed, command, launch, n_parallel)


# Checks


def check_hydra_overrides(config: DictConfig) -> None:
    """Raises: ConfigError for an override of Hydra's own that Folio's naming of folders replaces."""
    for override in config.hydra.overrides.hydra:
        if override.startswith("hydra.sweep.subdir="):
            raise ConfigError(f"{override}: jobs are named by the values in which they differ; leave it out")


def check_single_process(rank_info: RankInfo) -> None:
    """Raises: ConfigError if torchrun or srun has started several processes, each of which would run the sweep."""
    if rank_info.world_size > 1:
        raise ConfigError(
            f"-m under {rank_info.started_by}: each of its {rank_info.world_size} processes would run the whole sweep; "
            f"leave {rank_info.started_by} out, and each job starts its own processes"
        )


def check_sweep_keys(overrides: Sequence[Override]) -> None:
    """Raises: ConfigError if a key of the whole sweep is given several values."""
    for override in overrides:
        if is_sweep_key(override) and override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: {override.key_or_group} takes one value for the whole sweep")


def check_jobs(jobs: Sequence[Job], compose: Compose) -> None:
    """Compose the config of every job, and print a warning for each one that will fail.

    Raises: FolioError, that of the first job, if all will fail.
    """
    errors: list[tuple[Job, FolioError]] = []
    for job in jobs:
        try:
            compose(job.overrides)
        except FolioError as error:
            errors.append((job, error))
    if len(errors) == len(jobs):
        raise errors[0][1]
    for job, reason in errors:
        print(f"warning: {job.folder} will fail: {reason}", flush=True)


def compose_job(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the config of a job, as its run will compose it. Raises: FolioError."""
    previous = HydraConfig.instance().cfg
    try:
        composed = loader.load_sweep_config(config, list(overrides))
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        job = load_config(composed, log=lambda line: None)
        if job.resume is not None:
            raise ConfigError(f"resume={job.resume} is for a single run; resume a sweep with -m sweep=latest")
        return job
    except Exception as error:
        message = describe_error(error)
        if message is None:
            raise
        raise ConfigError(message) from None
    finally:
        HydraConfig.instance().cfg = previous


# Overrides


def is_sweep_key(override: Override) -> bool:
    """Return whether an override applies to the whole sweep."""
    return override.key_or_group.partition(".")[0] in SWEEP_KEYS


def parse_grid_axis(override: Override) -> GridAxis:
    """Return the values that an override gives to its key. Raises: ConfigError for an interval."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return GridAxis(key, _swept_values(override), is_swept=True)
    if override.is_sweep_override():
        raise ConfigError(
            f"{override.input_line}: an interval is for a search; add hparams_search=optuna, or list values"
        )
    if override.is_delete():
        return GridAxis(str(override.input_line), (), is_swept=False)
    return GridAxis(key, (override.get_value_string(),), is_swept=False)


def parse_search_space(
    search: SearchConfig, overrides: Sequence[Override], parser: OverridesParser
) -> tuple[list[Dimension], list[str]]:
    """Return the dimensions to search, and the overrides that all trials share.

    A key on the command line replaces that of hparams_search.space. Raises: FolioError if the space is impossible.
    """
    typed = {override.get_key_element(): override for override in overrides}
    configured = parser.parse_overrides([f"{key}={text}" for key, text in (search.space or {}).items()])
    space = [parse_dimension(override) for override in configured if override.get_key_element() not in typed]
    space += [parse_dimension(override) for override in typed.values() if override.is_sweep_override()]
    check_space(space)
    fixed = [
        parse_grid_axis(override).overrides()[0] for override in typed.values() if not override.is_sweep_override()
    ]
    return space, fixed


def parse_dimension(override: Override) -> Dimension:
    """Return the dimension that a swept override gives a search: an interval, a range of integers, or a choice."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        step = 1 if isinstance(value.start, int) and isinstance(value.end, int) else None
        return Range(key, value.start, value.end, log="log" in value.tags, step=step)
    if isinstance(value, RangeSweep):
        numbers = list(value.range())
        if len(numbers) > 1 and all(isinstance(number, int) for number in numbers):
            return Range(key, int(min(numbers)), int(max(numbers)), step=abs(int(numbers[1] - numbers[0])))
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"hparams_search.space.{key}={override.input_line} names one value; type {override.input_line}"
        )
    return Choice(key, _swept_values(override))


def _swept_values(override: Override) -> tuple[str, ...]:
    """Return the values in Hydra's spelling. Hydra reads `true` and gives `True`."""
    values = override.sweep_string_iterator()
    return tuple(value.lower() if value in ("True", "False") else value for value in values)


# Launching


def n_parallel_jobs(config: DictConfig, n_jobs: int) -> int:
    """Return how many jobs the launcher runs in parallel. Hydra's basic launcher runs one, in this process."""
    configured = OmegaConf.select(config, "hydra.launcher.n_jobs")
    if configured is None:
        return 1
    n_parallel = int(configured)
    if n_parallel <= 0:  # as joblib counts: -1 is all processors
        n_parallel = max(1, available_cpus() + 1 + n_parallel)
    return max(1, min(n_parallel, n_jobs))


def open_sweep_folder(config: DictConfig, base: RunConfig) -> Path:
    """Return the folder of the sweep to resume, or make a new one. Raises: FolioError."""
    if not base.sweep:
        return create_folder(Path(str(config.hydra.sweep.dir)), Path(base.paths.output_dir))
    folder = find_sweep(base.sweep, Path(base.paths.output_dir))
    check_writable(folder)
    return folder


def build_launch(
    context: HydraContext, task: TaskFunction, config: DictConfig, folder: Path, n_parallel: int
) -> Launch:
    """Return a function that runs jobs with Hydra's launcher, each in its own folder below `folder`."""
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote_for_hydra(str(folder))}")
        if "n_jobs" in config.hydra.launcher:
            config.hydra.launcher.n_jobs = n_parallel  # so that all processors are divided among these
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    n_launched = 0

    def launch(jobs: Sequence[Job]) -> None:
        nonlocal n_launched
        overrides = [[*job.overrides, f"hydra.sweep.subdir={quote_for_hydra(job.folder)}"] for job in jobs]
        try:
            results = launcher.launch(overrides, initial_job_idx=n_launched)
        except Exception as error:
            if not type(error).__module__.startswith("submitit."):
                raise
            reason = " ".join(str(error).split("\n")[:2])
            raise FolioError(
                f"a job did not return: {reason}; others may still be running; when they have ended, resume with: "
                f"{resume_sweep_command(folder)}"
            ) from None
        for result in results:
            _ = result.return_value  # raises an error that escaped the job: a bug, or the disk
        n_launched += len(jobs)

    return launch
