"""A search over the trials of a sweep: Optuna proposes values and ends what is hopeless; run folders are its memory.

A study is built anew from sweep.json and the folders of the trials whenever something is asked of it. So there is
nothing else to keep on disk, nothing that a kill could leave half-done, and trial k is a function of the seed and of
the trials before it: a search that was killed goes on with the trials that it would have had.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folio.config.hparams_search import SearchConfig
from folio.runtime.errors import FolioError
from folio.runtime.files import write_json
from folio.sweeps import manifest
from folio.sweeps.planning import Job, trial_name

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

VALUES = "objective.json"
"""In a trial's folder: the objective by step, as validations found it."""

MAY_CHANGE = ("n_trials", "prune", "n_startup_trials")
"""Of a search that goes on."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole ones, `step` apart, where step is not None."""

    key: str
    low: float
    high: float
    log: bool = False
    step: int | None = None


@dataclass(frozen=True)
class Choice:
    """One of several values in Hydra's spelling, without an order."""

    key: str
    options: tuple[str, ...]


Dimension = Range | Choice


def check_space(space: Sequence[Dimension]) -> None:
    """Raises: FolioError for what is no search."""
    if not space:
        raise FolioError(
            "hparams_search has no key to search; type one as in 'optimizer.learning_rate=tag(log,interval(1e-4,1e-2))'"
        )
    for dimension in space:
        if dimension.key == "seed":
            raise FolioError(
                "seed is no key to search: the best of several seeds is the luckiest; search with one, then compare "
                "the best values over seeds by python train.py -m ... seed=1,2,3"
            )
        if isinstance(dimension, Range) and not dimension.low < dimension.high:
            raise FolioError(f"{dimension.key}: interval({dimension.low}, {dimension.high}) is empty; give low < high")
        if isinstance(dimension, Range) and dimension.log and dimension.low <= 0:
            raise FolioError(f"{dimension.key}: a logarithmic interval must begin above 0, not at {dimension.low}")


def begin(folder: Path, config: SearchConfig, space: Sequence[Dimension], seed: int) -> None:
    """Enter the search in sweep.json. Raises: FolioError where another one was begun there."""
    now: dict[str, Any] = {
        "objective": config.objective,
        "maximizes": config.maximizes,
        "n_trials": config.n_trials,
        "prune": config.prune,
        "n_startup_trials": config.n_startup_trials,
        "seed": seed,
        "space": [asdict(dimension) for dimension in space],
    }
    now = json.loads(json.dumps(now))

    def change(entry: manifest.Record) -> None:
        before = entry.get("search", now)
        for key in now:
            if key not in MAY_CHANGE and before.get(key) != now[key]:
                raise FolioError(
                    f"sweep={folder}: that search was begun with another {key}; type the same command, or start "
                    "a new one"
                )
        if "search" not in entry and entry["jobs"]:
            raise FolioError(f"sweep={folder} is no search; leave hparams_search out, or start a new one")
        entry["search"] = now

    manifest.change_record(folder, change)


def proposals(folder: Path, n: int, fixed: Sequence[str]) -> list[Job]:
    """The next n trials, as jobs with the words of `fixed` before those of the trial."""
    entry = manifest.read_record(folder)
    study = study_of(folder, entry, n_at_once=n)
    distributions = {dimension["key"]: _distribution(dimension) for dimension in entry["search"]["space"]}
    first = len(entry["jobs"])
    jobs = []
    for number in range(first, first + n):
        values = dict(study.ask(distributions).params)
        words = (f"{key}={value}" for key, value in values.items())
        jobs.append(Job(trial_name(number, values), (*fixed, *words), values))
    return jobs


def begun_trial(job: Job, space: Sequence[Dimension], fixed: Sequence[str]) -> Job:
    """A trial of sweep.json, to be gone on with: its words are made anew from its values, which must be of the space.

    Raises: FolioError where they are not, so that no file says what else is run.
    """
    values = job.trial or {}
    inside = values.keys() == {dimension.key for dimension in space} and all(
        values[dimension.key] in dimension.options
        if isinstance(dimension, Choice)
        else isinstance(values[dimension.key], int | float)
        for dimension in space
    )
    if not inside:
        raise FolioError(
            f"sweep.json: {job.folder} has other values than the search; remove it there, or start a new one"
        )
    return Job(job.folder, (*fixed, *(f"{key}={value}" for key, value in values.items())), values)


def study_of(folder: Path, entry: manifest.Record, n_at_once: int = 1) -> "optuna.Study":
    """Optuna's view of the trials that have ended.

    A trial that diverged or failed counts as one that was given up at once: TPE passes over what Optuna calls failed,
    and would propose an impossible width again and again.
    """
    import optuna
    from optuna.trial import TrialState

    search = entry["search"]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=(search["seed"] * 100_003 + len(entry["jobs"])) % 2**32,
            n_startup_trials=search["n_startup_trials"],
            constant_liar=n_at_once > 1,
        )
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=max(1, search["n_startup_trials"]))
        if search["prune"]
        else optuna.pruners.NopPruner()
    )
    direction = optuna.study.StudyDirection.MAXIMIZE if search["maximizes"] else optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(direction=direction, sampler=sampler, pruner=pruner)
    distributions = {dimension["key"]: _distribution(dimension) for dimension in search["space"]}
    states = {"finished": TrialState.COMPLETE} | dict.fromkeys(("pruned", "diverged", "failed"), TrialState.PRUNED)
    for job in entry["jobs"]:
        status = manifest.status_of(folder / job["folder"])
        value = value_of(folder / job["folder"], search["objective"])
        if status not in states or (status == "finished" and value is None):
            continue
        study.add_trial(
            optuna.create_trial(
                state=states[status],
                value=value if status == "finished" else None,
                params=job["trial"],
                distributions=distributions,
                intermediate_values=intermediate_values(folder / job["folder"]),
            )
        )
    return study


def _distribution(dimension: Mapping[str, Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "options" in dimension:
        return CategoricalDistribution(list(dimension["options"]))
    low, high, log = dimension["low"], dimension["high"], dimension["log"]
    if dimension["step"] is None:
        return FloatDistribution(low, high, log=log)
    return IntDistribution(int(low), int(high), log=log, step=dimension["step"])


def value_of(job_folder: Path, objective: str) -> float | None:
    """What a trial reached; None where its metrics have no such figure."""
    value = manifest.metrics_of(job_folder).get(objective)
    return float(value) if isinstance(value, int | float) else None


def intermediate_values(job_folder: Path) -> dict[int, float]:
    """The objective by step, as far as the trial has come; nothing where the file is missing or damaged."""
    try:
        values = json.loads((job_folder / VALUES).read_text(encoding="utf-8"))
        return {int(step): float(value) for step, value in values.items()}
    except (AttributeError, OSError, RecursionError, TypeError, ValueError):
        return {}


class MedianPruner:
    """Notes the objective at each validation, and gives a trial up that is worse than the median of those before."""

    def __init__(self, job_folder: Path) -> None:
        self.job_folder = job_folder
        self.sweep = job_folder.parent

    def __call__(self, step: int, validation: Mapping[str, float]) -> str | None:
        """A reason to end the trial, or None."""
        entry = manifest.read_record(self.sweep)
        search = entry["search"]
        objective = search["objective"]
        name = objective.rpartition("val/")[2]
        if "val/" not in objective or name not in validation:
            return None
        values = intermediate_values(self.job_folder)
        values = {before: value for before, value in values.items() if before < step} | {step: validation[name]}
        write_json(self.job_folder / VALUES, {str(at): value for at, value in values.items()})
        if not search["prune"] or not self._is_hopeless(entry, values):
            return None
        return f"{objective.removeprefix('best/')} {validation[name]:.4f} is behind the median of the trials before it"

    def _is_hopeless(self, entry: manifest.Record, values: Mapping[int, float]) -> bool:
        import optuna

        study = study_of(self.sweep, entry)
        trial = optuna.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(values))
        return study.pruner.prune(study, trial)


def build_pruner(job_folder: Path) -> MedianPruner | None:
    """Who ends a job early: nobody outside a search."""
    is_trial = "search" in manifest.read_record(job_folder.parent)
    return MedianPruner(job_folder) if is_trial else None


def best_trial(folder: Path, entry: manifest.Record) -> tuple[Mapping[str, Any], float] | None:
    """The job whose objective is best, and what it reached; None where none finished."""
    objective = entry["search"]["objective"]
    reached = [
        (value, job)
        for job in entry["jobs"]
        if manifest.status_of(folder / job["folder"]) == "finished"
        and (value := value_of(folder / job["folder"], objective)) is not None
    ]
    if not reached:
        return None
    value, job = (max if entry["search"]["maximizes"] else min)(reached, key=lambda pair: pair[0])
    return job, value
