"""Turn Hydra's overrides into the jobs of a sweep, and run them with one of Hydra's launchers."""

import math
import sys
import typing
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import ValidationError

from folio.cli.compose import load_config
from folio.cli.errors import describe_error
from folio.cli.explain import explain_validation_error
from folio.config.hparams_search import SearchConfig
from folio.config.run import RunConfig, SweepConfig
from folio.config.section import ConfigError
from folio.distributed.environment import RankInfo, rank_from_environment
from folio.runs.folders import create_folder
from folio.runtime.commands import escape_interpolations, quote_for_hydra
from folio.runtime.cpus import available_cpus
from folio.runtime.errors import FolioError
from folio.runtime.files import check_writable, expand_home
from folio.sweeps.manifest import check_kind, find_sweep, read_manifest, with_known_folders
from folio.sweeps.planning import Grid, GridAxis, Job, check_number_of_jobs, plan_grid
from folio.sweeps.replay import check_extension, is_resumption, resume_sweep_command, resumed_jobs
from folio.sweeps.runner import Launch, pending_jobs, pending_trials, print_pending, run_grid, run_search
from folio.sweeps.search import Choice, Dimension, Range, check_space
from folio.sweeps.words import key_of, varied_in

SWEEP_KEYS = tuple(SweepConfig.model_fields)
"""Keys that apply to the whole sweep, rather than to a job."""

MAX_CHOICES = 100
"""Largest number of values of a key in a search, unless they form an interval or a range of integers."""

MAX_COMBINATIONS = 20
"""Number of other values that a value of a search is tried with before it counts as impossible."""

Compose = Callable[[Sequence[str]], RunConfig]
"""Composes and checks the config of a job from its overrides."""


class CannotComposeError(ConfigError):
    """Hydra cannot read a job's overrides: no other value of another key would help."""


def run_sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> None:
    """Check the command line, then run the sweep.

    Raises: FolioError before anything is written; SystemExit at the end if a job has no result.
    """
    check_hydra_overrides(config)
    check_single_process(rank_from_environment())
    parser = OverridesParser.create(config_loader=context.config_loader)
    overrides = parser.parse_overrides(list(arguments))
    check_sweep_keys(overrides)
    overrides = [override for override in overrides if not is_sweep_key(override)]
    settings = read_settings(config)
    existing = find_sweep(settings.sweep, Path(str(config.paths.output_dir))) if settings.sweep else None
    compose: Compose = partial(compose_job, context.config_loader, config)
    command = ["train.py", *(word for word in sys.argv[1:] if key_of(word) != "sweep")]
    launcher = partial(build_launch, context, task, config)
    search = settings.hparams_search
    if existing is not None:
        check_kind(existing, is_search=search is not None)
    if search is None:
        check_number_of_combinations(overrides, settings.max_jobs)
        grid, is_dry = plan_sweep(existing, overrides, settings.max_jobs, compose)
        if existing is not None and is_dry:
            print_pending(existing, pending_jobs(existing, grid.jobs), len(grid.jobs))
            return
        n_parallel = n_parallel_jobs(config, len(grid.jobs))
        folder = open_sweep_folder(config, existing)
        run_grid(folder, grid, command, launcher(folder, n_parallel), n_parallel)
    else:
        check_number_of_jobs(f"hparams_search.n_trials={search.n_trials}", search.n_trials, settings.max_jobs)
        space, fixed = parse_search_space(search, overrides, parser)
        trial = check_choices(space, fixed, compose)
        if existing is not None:
            keys = {key_of(dimension.key) for dimension in space}
            check_extension(existing, [[*fixed, *(f"{key}=" for key in keys)]], keys)
            if trial.dry_run:
                n_new = max(0, search.n_trials - len(read_manifest(existing)["jobs"]))
                print_pending(existing, pending_trials(existing), search.n_trials, n_new)
                return
        n_parallel = n_parallel_jobs(config, search.n_trials)
        folder = open_sweep_folder(config, existing)
        run_search(folder, search, space, fixed, trial.seed, command, launcher(folder, n_parallel), n_parallel)


def plan_sweep(
    existing: Path | None, overrides: Sequence[Override], max_jobs: int, compose: Compose
) -> tuple[Grid, bool]:
    """Return the jobs, and whether all of them are dry runs.

    Raises: FolioError if all jobs will fail, or if they do not belong to the `existing` sweep.
    """
    words = [str(override.input_line) for override in overrides]
    varied = {key_of(str(override.input_line)) for override in overrides if override.is_sweep_override()}
    if existing is not None and is_resumption(words):
        jobs = resumed_jobs(existing, words)
        varied = varied_in(read_manifest(existing)["command"])
        check_number_of_jobs(f"sweep={existing}", len(jobs), max_jobs)
    else:
        jobs = plan_grid([parse_grid_axis(override) for override in overrides])
        if existing is not None:
            check_extension(existing, [job.overrides for job in jobs], varied)
            varied |= varied_in(read_manifest(existing)["command"])
            jobs = with_known_folders(existing, jobs, varied)
    configs, errors = check_jobs(jobs, compose)
    return Grid(jobs, varied, errors), all(config.dry_run for config in configs)


def read_settings(config: DictConfig) -> SweepConfig:
    """Return the keys of the sweep itself. Raises: ConfigError."""
    given = OmegaConf.masked_copy(config, [key for key in SWEEP_KEYS if key in config])
    values = OmegaConf.to_container(given, resolve=True)
    try:
        return SweepConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_validation_error(error, typing.cast(dict[str, Any], values), {})) from None


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


def check_number_of_combinations(overrides: Sequence[Override], max_jobs: int) -> None:
    """Raises: FolioError if an override has no value, or if together they make too many jobs. Builds none of them."""
    last_of_key = {override.get_key_element(): override for override in overrides if override.is_discrete_sweep()}
    n_jobs = math.prod(count_values(override) for override in last_of_key.values())
    check_number_of_jobs(" ".join(str(override.input_line) for override in last_of_key.values()), n_jobs, max_jobs)


def check_jobs(jobs: Sequence[Job], compose: Compose) -> tuple[list[RunConfig], dict[str, str]]:
    """Compose the config of every job, and print a warning for each one that will fail.

    Returns: the configs of the others; and for each job that Hydra cannot compose, by folder, why.
    Raises: FolioError, that of the first job, if all will fail.
    """
    configs: list[RunConfig] = []
    errors: dict[str, FolioError] = {}
    for job in jobs:
        try:
            configs.append(compose(job.overrides))
        except FolioError as error:
            errors[job.folder] = error
    if not configs:
        raise next(iter(errors.values()))
    for folder, reason in errors.items():
        print(f"warning: {folder} will fail: {reason}", flush=True)
    return configs, {name: str(error) for name, error in errors.items() if isinstance(error, CannotComposeError)}


def check_choices(space: Sequence[Dimension], fixed: Sequence[str], compose: Compose) -> RunConfig:
    """Return the config of a possible trial.

    A value may be impossible alone and possible with some values of the other keys, which are tried one at a time.

    Raises: FolioError if a choice is impossible, or if all tried values of a range are.
    """
    possible: RunConfig | None = None
    problem: FolioError | None = None
    try:
        possible = compose(fixed)
    except CannotComposeError:
        raise
    except FolioError as error:
        problem = error
    for dimension in space:
        errors: list[tuple[str, FolioError]] = []
        words = dimension.overrides()
        others = [word for other in space if other is not dimension for word in other.overrides()]
        for word in words:
            found = _first_possible(word, others[:MAX_COMBINATIONS], fixed, compose)
            if isinstance(found, RunConfig):
                possible = possible or found
            elif isinstance(found, CannotComposeError):
                raise found
            else:
                errors.append((word, found))
        if len(errors) == len(words) and problem is not None:
            raise problem
        if errors and (isinstance(dimension, Choice) or len(errors) == len(words)):
            word, reason = errors[0]
            raise ConfigError(f"{word} is impossible for every trial: {reason}; leave it out of the search")
    assert possible is not None
    return possible


def _first_possible(word: str, others: Sequence[str], fixed: Sequence[str], compose: Compose) -> RunConfig | FolioError:
    """Return the first config with `word` that can run, alone or with one of the others; else the first error."""
    first: FolioError | None = None
    for combination in ([word], *([word, other] for other in others)):
        try:
            return compose([*fixed, *combination])
        except FolioError as error:
            first = first or error
            if isinstance(error, CannotComposeError) and len(combination) == 1:
                break
    assert first is not None
    return first


def compose_job(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> RunConfig:
    """Return the config of a job, as its run will compose it. Raises: CannotComposeError; FolioError."""
    previous = HydraConfig.instance().cfg
    try:
        composed = loader.load_sweep_config(config, list(overrides))
    except Exception as error:
        raise _explained(error, CannotComposeError) from None
    try:
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        job = load_config(composed, log=lambda line: None)
        if job.resume is not None:
            raise ConfigError(f"resume={job.resume} is for a single run; resume a sweep with -m sweep=latest")
        return job
    except Exception as error:
        raise _explained(error, ConfigError) from None
    finally:
        HydraConfig.instance().cfg = previous


def _explained(error: Exception, kind: type[ConfigError]) -> Exception:
    message = describe_error(error)
    return error if message is None else kind(message)


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
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"hparams_search.space.{key}={override.input_line} names one value; type {override.input_line}"
        )
    n_values = count_values(override)
    if isinstance(value, RangeSweep):
        numbers = value.range()
        if isinstance(numbers, range) and n_values > 1:
            return Range(key, min(numbers[0], numbers[-1]), max(numbers[0], numbers[-1]), step=abs(numbers.step))
    if n_values > MAX_CHOICES:
        raise ConfigError(
            f"{override.input_line} has {n_values:,} values, and a search chooses between at most {MAX_CHOICES}; give "
            f"an interval, as in {key}=interval(...)"
        )
    return Choice(key, _swept_values(override))


def count_values(override: Override) -> int:
    """Return how many values a discrete sweep has, without building them. Raises: ConfigError if it has none."""
    value = override.value()
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        numbers = value.range() if value.step else None
        if isinstance(numbers, range):
            n_values = max(0, -((value.start - value.stop) // value.step))  # len() takes no more than 64 bits
        else:
            quotient = float(value.stop - value.start) / value.step if value.step else math.inf
            if not math.isfinite(quotient):
                raise ConfigError(f"{override.input_line}: a range needs finite limits and a step other than 0")
            n_values = max(0, math.ceil(quotient))
    else:
        n_values = len(list(override.sweep_iterator()))
    if n_values == 0:
        raise ConfigError(f"{override.input_line} gives no value; give at least one")
    return int(n_values)


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


def open_sweep_folder(config: DictConfig, existing: Path | None) -> Path:
    """Return the folder of the sweep to resume, or create a new one. Raises: FolioError."""
    if existing is None:
        return create_folder(Path(expand_home(str(config.hydra.sweep.dir))), Path(str(config.paths.output_dir)))
    check_writable(existing)
    return existing


def build_launch(
    context: HydraContext, task: TaskFunction, config: DictConfig, folder: Path, n_parallel: int
) -> Launch:
    """Return a function that runs jobs with Hydra's launcher, each in its own folder below `folder`."""
    with open_dict(config):
        config.hydra.sweep.dir = escape_interpolations(str(folder))
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
