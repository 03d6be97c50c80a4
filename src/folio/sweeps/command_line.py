"""From Hydra's words to jobs, and from jobs to Hydra's launchers. The one file of sweeps that knows Hydra."""

import sys
from collections.abc import Callable, Sequence
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
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.distributed.environment import RankInfo, rank_from_environment
from folio.runs.folders import check_links, create_folder
from folio.runtime.cpus import available_cpus
from folio.runtime.errors import FolioError
from folio.runtime.terminal import python_command
from folio.sweeps.manifest import find_sweep, hydra_word, resume_hint
from folio.sweeps.planning import Job, Word, planned_jobs
from folio.sweeps.runner import Launch, lead_grid, lead_search
from folio.sweeps.search import Choice, Dimension, Range, check_space

OF_THE_SWEEP = ("sweep", "hparams_search")
"""Keys that are said of the whole and not of a job."""

Check = Callable[[Sequence[str]], RunConfig]


def run_sweep(context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> None:
    """Check what was typed, then run it. Raises: FolioError before anything is written; SystemExit at the end."""
    check_hydra_words(config)
    check_one_leader(rank_from_environment())
    overrides = OverridesParser.create(config_loader=context.config_loader).parse_overrides(list(arguments))
    for override in overrides:
        if is_of_the_sweep(override) and override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: {override.key_or_group} takes one value for the whole sweep")
    of_jobs = [override for override in overrides if not is_of_the_sweep(override)]

    def check(words: Sequence[str]) -> RunConfig:
        return checked(context.config_loader, config, words)

    whole = check([str(o.input_line) for o in overrides if not o.is_sweep_override()])
    search = whole.hparams_search
    if search is None:
        jobs = planned_jobs([word_of(override) for override in of_jobs])
        check_jobs(jobs, check)
        n_at_once = jobs_at_once(config, len(jobs))
    else:
        typed = {o.get_key_element(): o for o in of_jobs}
        parser = OverridesParser.create(config_loader=context.config_loader)
        given = parser.parse_overrides([f"{key}={text}" for key, text in (search.space or {}).items()])
        fixed = [word_of(o).overrides()[0] for o in typed.values() if not o.is_sweep_override()]
        space = [dimension_of(o) for o in given if o.get_key_element() not in typed]
        space += [dimension_of(o) for o in typed.values() if o.is_sweep_override()]
        check_space(space)
        check(fixed)
        n_at_once = jobs_at_once(config, search.n_trials)
    if whole.sweep:
        folder = find_sweep(whole.sweep, Path(whole.paths.output_dir))
        check_links(folder)
    else:
        folder = create_folder(Path(str(config.hydra.sweep.dir)), Path(whole.paths.output_dir))
    launch = launcher(context, task, config, folder, n_at_once)
    command = ["train.py", *(word for word in sys.argv[1:] if not word.startswith("sweep="))]
    if search is None:
        lead_grid(folder, jobs, command, launch, n_at_once)
    else:
        lead_search(folder, search, space, fixed, whole.seed, command, launch, n_at_once)


def check_hydra_words(config: DictConfig) -> None:
    """Raises: ConfigError for words of Hydra's that another way of naming folders has taken the place of."""
    for word in config.hydra.overrides.hydra:
        if word.startswith("hydra.sweep.subdir="):
            raise ConfigError(f"{word}: jobs are named by the values that set them apart; leave it out")


def check_one_leader(rank_info: RankInfo) -> None:
    """Raises: ConfigError where torchrun or srun has started many leaders of one sweep."""
    if rank_info.world_size > 1:
        raise ConfigError(
            f"-m under {rank_info.started_by}: each of its {rank_info.world_size} processes would run the whole sweep; "
            f"leave {rank_info.started_by} out, and each job starts its own processes"
        )


def is_of_the_sweep(override: Override) -> bool:
    return override.key_or_group.partition(".")[0] in OF_THE_SWEEP


def word_of(override: Override) -> Word:
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return Word(key, tuple(map(_as_typed, override.sweep_string_iterator())), is_swept=True)
    if override.is_sweep_override():
        raise ConfigError(
            f"{override.input_line}: an interval is for a search; add hparams_search=optuna, or name values"
        )
    if override.is_delete():
        return Word(str(override.input_line), (), is_swept=False)
    return Word(key, (override.get_value_string(),), is_swept=False)


def _as_typed(value: str) -> str:
    """Hydra reads true and gives True."""
    return value.lower() if value in ("True", "False") else value


def dimension_of(override: Override) -> Dimension:
    """What a search makes of swept values: an interval or whole numbers of a range, else a choice."""
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
    return Choice(key, tuple(map(_as_typed, override.sweep_string_iterator())))


def check_jobs(jobs: Sequence[Job], check: Check) -> None:
    """Compose them all: what none of them could run with is answered at once, what some cannot is said at once.

    Raises: FolioError in the words of the first job.
    """
    refused: list[tuple[Job, FolioError]] = []
    for job in jobs:
        try:
            check(job.overrides)
        except FolioError as error:
            refused.append((job, error))
    if len(refused) == len(jobs):
        raise refused[0][1]
    for job, reason in refused:
        print(f"warning: {job.folder} will fail: {reason}", flush=True)


def checked(loader: ConfigLoader, config: DictConfig, words: Sequence[str]) -> RunConfig:
    """The config of a job, as its run will find it. Raises: FolioError."""
    before = HydraConfig.instance().cfg
    try:
        composed = loader.load_sweep_config(config, list(words))
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        job = load_config(composed, say=lambda line: None)
        if job.resume is not None:
            raise ConfigError(f"resume={job.resume} is for a single run; a sweep goes on by -m sweep=latest")
        return job
    except Exception as error:
        message = describe_error(error)
        if message is None:
            raise
        raise ConfigError(message) from None
    finally:
        HydraConfig.instance().cfg = before


def jobs_at_once(config: DictConfig, n_jobs: int) -> int:
    """As many as the launcher runs side by side; the basic one runs them one after the other, in this process."""
    wanted = OmegaConf.select(config, "hydra.launcher.n_jobs")
    if wanted is None:
        return 1
    wanted = int(wanted) if int(wanted) > 0 else max(1, available_cpus() + 1 + int(wanted))
    return max(1, min(wanted, n_jobs))


def launcher(context: HydraContext, task: TaskFunction, config: DictConfig, folder: Path, n_at_once: int) -> Launch:
    """Hydra's launcher, told where jobs lie. Processors are divided among as many jobs as there are, and not more."""
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={hydra_word(str(folder))}")
        if "n_jobs" in config.hydra.launcher:
            config.hydra.launcher.n_jobs = n_at_once
    hydras = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    n_launched = 0

    def launch(jobs: Sequence[Job]) -> None:
        nonlocal n_launched
        words = [[*job.overrides, f"hydra.sweep.subdir={hydra_word(job.folder)}"] for job in jobs]
        try:
            results = hydras.launch(words, initial_job_idx=n_launched)
        except Exception as error:
            if not type(error).__module__.startswith("submitit."):
                raise
            reason = " ".join(str(error).split("\n")[:2])
            raise FolioError(
                f"a job did not come back: {reason}; those beside it may run still; when they have ended, go on with: "
                f"{resume_hint(folder, python_command())}"
            ) from None
        for result in results:
            _ = result.return_value  # raises what escaped the job itself, which is a bug or the disk
        n_launched += len(jobs)

    return launch
