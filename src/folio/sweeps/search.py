"""A hyperparameter search: Optuna proposes the values of each trial and decides which trials to prune.

Nothing of Optuna's is kept on disk. Its study is rebuilt from sweep.json and the trials' folders whenever it is needed,
so a killed process leaves nothing half-written. Trial k depends only on the seed and on the trials before it: a search
that was killed continues with the trials that it would have had.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folio.config.hparams_search import SearchConfig
from folio.runs.folders import COMPLETED
from folio.runtime.errors import FolioError
from folio.runtime.files import write_json
from folio.runtime.untrusted import read_json_object
from folio.sweeps.manifest import (
    Manifest,
    check_kind,
    job_status,
    listed_jobs,
    read_manifest,
    read_metrics,
    update_manifest,
)
from folio.sweeps.planning import Job, TrialParams, trial_name
from folio.sweeps.words import SEARCH_KEYS

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

OBJECTIVE_FILE = "objective.json"
"""In a trial's folder: the objective at each validation, by step."""

MAX_CHECKED = 10
"""Largest number of integers of a range that are all checked before the first trial."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included: integers `step` apart, or floats if step is None."""

    key: str
    low: float
    high: float
    log: bool = False
    step: int | None = None

    def overrides(self) -> list[str]:
        """Return overrides with the values to check before the first trial: all of a few integers, or both ends."""
        if self.step is not None and (self.high - self.low) / self.step < MAX_CHECKED:
            return [f"{self.key}={value}" for value in range(int(self.low), int(self.high) + 1, self.step)]
        return [f"{self.key}={self.low}", f"{self.key}={self.high}"]


@dataclass(frozen=True)
class Choice:
    """One of several values in Hydra's spelling, without an order."""

    key: str
    options: tuple[str, ...]

    def overrides(self) -> list[str]:
        """Return an override for each option."""
        return [f"{self.key}={option}" for option in self.options]


Dimension = Range | Choice


def check_space(space: Sequence[Dimension]) -> None:
    """Raises: FolioError if the space cannot be searched."""
    if not space:
        raise FolioError(
            "hparams_search has no key to search; add one, such as "
            "'optimizer.learning_rate=tag(log,interval(1e-4,1e-2))'"
        )
    for dimension in space:
        if dimension.key == "seed":
            raise FolioError(
                "seed cannot be searched: the best of several seeds is only the luckiest; search with one seed, then "
                "compare the best values over several by python train.py -m ... seed=1,2,3"
            )
        if isinstance(dimension, Range) and not dimension.low < dimension.high:
            raise FolioError(f"{dimension.key}: interval({dimension.low}, {dimension.high}) is empty; give low < high")
        if isinstance(dimension, Range) and dimension.log and dimension.low <= 0:
            raise FolioError(f"{dimension.key}: a logarithmic interval must begin above 0, not at {dimension.low}")


def start_search(folder: Path, config: SearchConfig, space: Sequence[Dimension], seed: int) -> None:
    """Record the search in sweep.json. Raises: FolioError if the sweep has a different search, or is not a search."""
    settings: dict[str, Any] = {
        "objective": config.objective,
        "maximizes": config.maximizes,
        "n_trials": config.n_trials,
        "prune": config.prune,
        "n_startup_trials": config.n_startup_trials,
        "seed": seed,
        "space": [asdict(dimension) for dimension in space],
    }
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in sweep.json

    def change(manifest: Manifest) -> None:
        recorded = manifest.get("search", settings)
        for key, value in settings.items():
            if f"hparams_search.{key}" not in SEARCH_KEYS and recorded.get(key) != value:
                raise FolioError(
                    f"sweep={folder}: that search was started with another {key}; run the same command, or start a new "
                    "search"
                )
        for trial in listed_jobs(manifest):
            check_values(trial, space)
        manifest["search"] = settings

    check_kind(folder, is_search=True)
    update_manifest(folder, change)


# Trials


def propose_trials(folder: Path, n: int, fixed: Sequence[str]) -> list[Job]:
    """Return the next n trials. Their overrides are `fixed`, followed by the values that Optuna proposes."""
    manifest = read_manifest(folder)
    study = build_study(folder, manifest, n_parallel=n)
    distributions = _distributions(manifest)
    first = len(manifest["jobs"])
    proposed = [dict(study.ask(distributions).params) for _ in range(n)]
    return [_trial(trial_name(first + i, params), params, fixed) for i, params in enumerate(proposed)]


def resumed_trial(trial: Job, space: Sequence[Dimension], fixed: Sequence[str]) -> Job:
    """Return a trial that sweep.json lists, with its overrides rebuilt from its values.

    So sweep.json cannot add an override of its own. Raises: FolioError if the values are not in the space.
    """
    check_values(trial, space)
    return _trial(trial.folder, trial.params or {}, fixed)


def check_values(trial: Job, space: Sequence[Dimension]) -> None:
    """Raises: FolioError if sweep.json gives the trial values that the search could not have proposed."""
    params = trial.params if isinstance(trial.params, dict) else {}
    by_key = {dimension.key: dimension for dimension in space}
    if params.keys() != by_key.keys() or not all(_is_value_of(by_key[key], value) for key, value in params.items()):
        raise FolioError(
            f"sweep.json: {trial.folder} has other values than the search; remove it there, or start a new search"
        )


def _is_value_of(dimension: Dimension, value: object) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.options
    if isinstance(value, bool) or not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    return dimension.step is None or (isinstance(value, int) and (value - dimension.low) % dimension.step == 0)


def _trial(folder: str, params: TrialParams, fixed: Sequence[str]) -> Job:
    return Job(folder, (*fixed, *(f"{key}={value}" for key, value in params.items())), params)


def objective_value(job_folder: Path, objective: str) -> float | None:
    """Return the objective that a trial reached; None if its metrics do not have it, or it is no finite number."""
    value = read_metrics(job_folder).get(objective)
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def intermediate_values(job_folder: Path) -> dict[int, float]:
    """Return the objective at each validation, by step; empty if the file is missing or damaged."""
    try:
        values = read_json_object(job_folder / OBJECTIVE_FILE)
        return {int(step): float(value) for step, value in values.items()}
    except (FolioError, OSError, OverflowError, TypeError, ValueError):
        return {}


def best_trial(folder: Path, manifest: Manifest) -> tuple[Job, float] | None:
    """Return the finished trial with the best objective, and that objective; None if no trial has finished."""
    search = manifest["search"]
    finished = [
        (trial, value)
        for trial in listed_jobs(manifest)
        if job_status(folder / trial.folder) in COMPLETED
        and (value := objective_value(folder / trial.folder, search["objective"])) is not None
    ]
    best = max if search["maximizes"] else min
    return best(finished, key=lambda pair: pair[1]) if finished else None


# Optuna


def build_study(folder: Path, manifest: Manifest, n_parallel: int = 1) -> "optuna.Study":
    """Build Optuna's study from the trials that have ended.

    A trial that diverged or failed counts as pruned. TPE ignores the trials that Optuna calls failed, and would
    propose an impossible width again and again.
    """
    import optuna
    from optuna.trial import TrialState

    search = manifest["search"]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=(search["seed"] * 100_003 + len(manifest["jobs"])) % 2**32,
            n_startup_trials=search["n_startup_trials"],
            constant_liar=n_parallel > 1,
        )
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=max(1, search["n_startup_trials"]))
        if search["prune"]
        else optuna.pruners.NopPruner()
    )
    direction = optuna.study.StudyDirection.MAXIMIZE if search["maximizes"] else optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(direction=direction, sampler=sampler, pruner=pruner)
    distributions = _distributions(manifest)
    states = dict.fromkeys(COMPLETED, TrialState.COMPLETE) | dict.fromkeys(
        ("pruned", "diverged", "failed"), TrialState.PRUNED
    )
    for job in listed_jobs(manifest):
        trial = folder / job.folder
        status, value = job_status(trial), objective_value(trial, search["objective"])
        if status not in states or (status in COMPLETED and value is None):
            continue
        study.add_trial(
            optuna.create_trial(
                state=states[status],
                value=value if status in COMPLETED else None,
                params=dict(job.params or {}),
                distributions=distributions,
                intermediate_values=intermediate_values(trial),
            )
        )
    return study


def _distributions(manifest: Manifest) -> "dict[str, BaseDistribution]":
    return {dimension["key"]: _distribution(dimension) for dimension in manifest["search"]["space"]}


def _distribution(dimension: Mapping[str, Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "options" in dimension:
        return CategoricalDistribution(list(dimension["options"]))
    low, high, log = dimension["low"], dimension["high"], dimension["log"]
    if dimension["step"] is None:
        return FloatDistribution(low, high, log=log)
    return IntDistribution(int(low), int(high), log=log, step=dimension["step"])


class MedianPruner:
    """Records a trial's objective at each validation, and prunes the trial if it is worse than the median so far.

    The median is that of the trials that have ended, at the same step.
    """

    def __init__(self, job_folder: Path) -> None:
        self.job_folder = job_folder
        self.sweep = job_folder.parent

    def __call__(self, step: int, validation: Mapping[str, float]) -> str | None:
        """Return the reason to prune the trial, or None to continue it."""
        manifest = read_manifest(self.sweep)
        search = manifest["search"]
        objective = search["objective"]
        metric = objective.rpartition("val/")[2]
        if "val/" not in objective or metric not in validation:
            return None
        value = validation[metric]
        # A trial that was resumed from a checkpoint repeats the validations after it.
        values = {at: old for at, old in intermediate_values(self.job_folder).items() if at < step} | {step: value}
        write_json(self.job_folder / OBJECTIVE_FILE, {str(at): value for at, value in values.items()})
        if not search["prune"] or not self._should_prune(manifest, values):
            return None
        return f"{objective.removeprefix('best/')} {value:.4f} is worse than the median of the trials before it"

    def _should_prune(self, manifest: Manifest, values: Mapping[int, float]) -> bool:
        import optuna

        study = build_study(self.sweep, manifest)
        trial = optuna.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(values))
        return study.pruner.prune(study, trial)


def build_pruner(job_folder: Path) -> MedianPruner | None:
    """Return the pruner of a job: None unless the job is a trial of a search."""
    is_trial = "search" in read_manifest(job_folder.parent)
    return MedianPruner(job_folder) if is_trial else None
