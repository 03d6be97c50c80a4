"""A search proposes trials, learns from the folders of those that ended, and prunes those that do badly."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from folio.config.hparams_search import SearchConfig
from folio.config.run import RunConfig
from folio.runtime.errors import FolioError
from folio.sweeps import manifest, search
from folio.sweeps.command_line import parse_dimension, parse_grid_axis
from folio.sweeps.planning import Grid, Job
from folio.sweeps.runner import MAX_INITIAL_FAILURES, check_trials, run_grid, run_search
from folio.sweeps.search import Choice, Dimension, MedianPruner, Range

SPACE: tuple[Dimension, ...] = (
    Range("optimizer.learning_rate", 1e-4, 1e-1, log=True),
    Choice("schedule", ("constant", "wsd")),
    Range("model.n_layers", 1, 4, step=1),
)


@pytest.fixture
def config(compose: Callable[..., RunConfig]) -> SearchConfig:
    config = compose("hparams_search=optuna").hparams_search
    assert config is not None
    return config


@pytest.fixture
def sweep(tmp_path: Path, config: SearchConfig) -> Path:
    """A search that has started, without trials."""
    manifest.create_manifest(tmp_path, ["train.py", "-m", "hparams_search=optuna"])
    search.start_search(tmp_path, config, SPACE, seed=1)
    return tmp_path


def end_trial(sweep: Path, status: str, value: float | None = None, values: Sequence[float] = ()) -> Path:
    """Propose a trial and end it with the objective `value`, after `values` at steps 10, 20, ..."""
    (job,) = search.propose_trials(sweep, 1, ["model=debug"])
    manifest.add_jobs(sweep, [job])
    folder = sweep / job.folder
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"status": status, "val/bits_per_byte": value, "error": "x"}))
    steps = {str(10 * number): value for number, value in enumerate(values, start=1)}
    (folder / "objective.json").write_text(json.dumps(steps))
    return folder


def test_a_proposed_trial_has_a_value_for_every_key(sweep: Path) -> None:
    jobs = search.propose_trials(sweep, 3, ["model=debug"])
    for number, job in enumerate(jobs):
        assert job.params is not None
        assert job.params.keys() == {dimension.key for dimension in SPACE}
        assert 1e-4 <= float(job.params["optimizer.learning_rate"]) <= 1e-1
        assert job.params["schedule"] in ("constant", "wsd")
        assert job.params["model.n_layers"] in (1, 2, 3, 4)
        assert job.overrides == ("model=debug", *(f"{key}={value}" for key, value in job.params.items()))
        assert job.folder.startswith(f"trial={number},learning_rate=")
    assert len({job.overrides for job in jobs}) == 3


def test_a_killed_search_continues_with_the_trials_it_would_have_had(tmp_path: Path, config: SearchConfig) -> None:
    def trials(folder: Path, kill_after: int) -> list[object]:
        manifest.create_manifest(folder, [])
        for number in range(8):
            if number in (0, kill_after):  # as a new process does
                search.start_search(folder, config, SPACE, seed=1)
                manifest.refresh_statuses(folder)
            end_trial(folder, "finished", value=(number * 7) % 5 / 10)
        return [job["trial"] for job in manifest.read_manifest(folder)["jobs"]]

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert trials(tmp_path / "whole", kill_after=0) == trials(tmp_path / "killed", kill_after=6)


def test_proposals_approach_the_values_that_did_well(sweep: Path) -> None:
    def distance() -> float:
        (job,) = search.propose_trials(sweep, 1, [])
        assert job.params is not None
        return abs(math.log10(float(job.params["optimizer.learning_rate"]) / 0.02))

    distances = []
    for _ in range(25):
        distances.append(distance())
        end_trial(sweep, "finished", value=distances[-1])
    assert median(distances[-10:]) < median(distances[:5]) / 2


def test_optuna_sees_how_each_trial_ended(sweep: Path) -> None:
    for status, value in (
        ("finished", 2.0),
        ("pruned", 3.0),
        ("diverged", None),
        ("failed", None),
        ("interrupted", 1.0),
    ):
        end_trial(sweep, status, value, values=(4.0, 3.5))
    study = search.build_study(sweep, manifest.read_manifest(sweep))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert study.trials[1].intermediate_values == {10: 4.0, 20: 3.5}
    best = search.best_trial(sweep, manifest.read_manifest(sweep))
    assert best is not None
    assert (best[0].folder[:8], best[1]) == ("trial=0,", 2.0)


def test_values_that_fail_are_proposed_less_and_less(sweep: Path) -> None:
    def next_schedule() -> str:
        (job,) = search.propose_trials(sweep, 1, [])
        assert job.params is not None
        return str(job.params["schedule"])

    schedules = []
    for _ in range(25):
        schedules.append(next_schedule())
        end_trial(sweep, *(("finished", 1.0) if schedules[-1] == "constant" else ("failed", None)))
    assert schedules[-12:].count("wsd") <= 3


def prune(sweep: Path, step: int, value: float) -> str | None:
    folder = sweep / "trial=x"
    folder.mkdir(exist_ok=True)
    return MedianPruner(folder)(step, {"bits_per_byte": value, "loss_nats": 0.0})


def test_a_trial_worse_than_the_median_is_pruned_once_enough_have_ended(sweep: Path) -> None:
    for number in range(4):
        end_trial(sweep, "finished", 1.0, values=(3.0 + number / 10, 2.0))
    assert prune(sweep, 10, 9.0) is None, "four are not enough"
    end_trial(sweep, "finished", 1.0, values=(3.4, 2.0))
    assert prune(sweep, 10, 3.19) is None
    assert prune(sweep, 20, 2.1) == "val/bits_per_byte 2.1000 is worse than the median of the trials before it"
    assert json.loads((sweep / "trial=x" / "objective.json").read_text()) == {"10": 3.19, "20": 2.1}


def test_a_resumed_trial_forgets_validations_after_its_checkpoint(sweep: Path) -> None:
    for step in (10, 20, 30, 20):
        prune(sweep, step, 2.0)
    assert search.intermediate_values(sweep / "trial=x").keys() == {10, 20}


def test_no_trial_is_pruned_if_pruning_is_off(tmp_path: Path, config: SearchConfig) -> None:
    manifest.create_manifest(tmp_path, [])
    search.start_search(tmp_path, config.model_copy(update={"prune": False}), SPACE, seed=1)
    for _ in range(6):
        end_trial(tmp_path, "finished", 1.0, values=(1.0,))
    assert prune(tmp_path, 10, 9.0) is None


def test_an_objective_that_no_validation_has_prunes_no_trial(tmp_path: Path, config: SearchConfig) -> None:
    manifest.create_manifest(tmp_path, [])
    search.start_search(tmp_path, config.model_copy(update={"objective": "train/tokens_per_s"}), SPACE, seed=1)
    assert prune(tmp_path, 10, 9.0) is None


def test_a_trial_resumes_with_overrides_rebuilt_from_its_values(sweep: Path) -> None:
    (job,) = search.propose_trials(sweep, 1, ["model=debug"])
    assert search.resumed_trial(replace(job, overrides=("hydra.x=1",)), SPACE, ["model=debug"]) == job
    assert job.params is not None
    for values in (
        None,
        {**job.params, "hydra.x": 1},
        {**job.params, "schedule": "x"},
        {**job.params, "model.n_layers": "hydra.x=1"},
        {**job.params, "model.n_layers": True},
        {**job.params, "model.n_layers": 1.5},
        {**job.params, "model.n_layers": 10**9},
        {**job.params, "optimizer.learning_rate": float("nan")},
    ):
        with pytest.raises(FolioError, match="has other values than the search"):
            search.resumed_trial(replace(job, params=values), SPACE, [])


def test_accuracy_is_maximized(config: SearchConfig) -> None:
    assert not config.maximizes
    assert config.model_copy(update={"objective": "val/accuracy"}).maximizes


def test_another_search_in_the_same_folder_is_refused(sweep: Path, config: SearchConfig) -> None:
    search.start_search(sweep, config.model_copy(update={"n_trials": 99, "prune": False}), SPACE, seed=1)
    for changed, space, seed, key in (
        (config, SPACE[:1], 1, "space"),
        (config, SPACE, 2, "seed"),
        (config.model_copy(update={"objective": "val/loss_nats"}), SPACE, 1, "objective"),
    ):
        with pytest.raises(FolioError, match=f"started with another {key}"):
            search.start_search(sweep, changed, space, seed)


def test_a_refused_command_does_not_replace_the_recorded_one(tmp_path: Path, config: SearchConfig) -> None:
    def launch(jobs: Sequence[Job]) -> None:
        pytest.fail("a job started")

    jobs = [Job("seed=1", ("seed=1",))]
    manifest.create_manifest(tmp_path, ["recorded"])
    manifest.add_jobs(tmp_path, jobs)
    with pytest.raises(FolioError, match="is not a search"):
        run_search(tmp_path, config, SPACE, [], 1, ["search"], launch, n_parallel=1)
    assert manifest.read_manifest(tmp_path)["command"] == ["recorded"]
    a_search = {"command": ["recorded"], "jobs": [], "search": {}}
    manifest.write_manifest(tmp_path, a_search)
    with pytest.raises(FolioError, match="is a search; add hparams_search=optuna"):
        run_grid(tmp_path, Grid(jobs), ["grid"], launch, n_parallel=1)
    assert manifest.read_manifest(tmp_path) == a_search


def test_a_search_ends_if_its_first_trials_all_fail(sweep: Path, config: SearchConfig) -> None:
    for _ in range(MAX_INITIAL_FAILURES):
        check_trials(sweep, config)
        end_trial(sweep, "failed")
    with pytest.raises(FolioError, match="the first 5 trials of the search have all failed, the last with: x"):
        check_trials(sweep, config)


def test_a_missing_objective_is_reported_after_the_first_trial(sweep: Path, config: SearchConfig) -> None:
    end_trial(sweep, "finished", value=None)
    with pytest.raises(FolioError, match=r"val/bits_per_byte: .* has no such metric"):
        check_trials(sweep, config)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a.b=interval(0,0.3)", Range("a.b", 0.0, 0.3)),
        ("a=tag(log,interval(1e-4,1e-1))", Range("a", 1e-4, 1e-1, log=True)),
        ("a=int(interval(1,5))", Range("a", 1, 5, step=1)),
        ("a=tag(log,int(interval(16,256)))", Range("a", 16, 256, log=True, step=1)),
        ("a=range(1,6,2)", Range("a", 1, 5, step=2)),
        ("a=range(0,1,0.5)", Choice("a", ("0.0", "0.5"))),
        ("a=choice(x,y)", Choice("a", ("x", "y"))),
        ("a=1,2", Choice("a", ("1", "2"))),
        ("a='x,y',z", Choice("a", ("'x,y'", "z"))),
    ],
)
def test_a_swept_override_is_a_dimension(typed: str, expected: Dimension) -> None:
    assert parse_dimension(OverridesParser.create().parse_override(typed)) == expected


def test_an_impossible_space_is_refused() -> None:
    parse = OverridesParser.create().parse_override
    with pytest.raises(FolioError, match="names one value"):
        parse_dimension(parse("a=1"))
    with pytest.raises(FolioError, match="add hparams_search=optuna"):
        parse_grid_axis(parse("a=interval(0,1)"))
    for space, message in (
        ([], "has no key to search"),
        ([Range("seed", 1, 3, step=1)], "the best of several seeds is only the luckiest"),
        ([Range("a", 1, 1)], "is empty"),
        ([Range("a", 0, 1, log=True)], "must begin above 0"),
    ):
        with pytest.raises(FolioError, match=message):
            search.check_space(space)


def test_the_shipped_space_fits_the_schema(config: SearchConfig) -> None:
    parser = OverridesParser.create()
    dimensions = [parse_dimension(parser.parse_override(f"{key}={text}")) for key, text in (config.space or {}).items()]
    search.check_space(dimensions)
    assert {dimension.key for dimension in dimensions} == {
        "optimizer.learning_rate",
        "model.d_model",
        "model.dropout",
        "schedule",
    }
