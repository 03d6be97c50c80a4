"""The benchmark as a command, and its contenders as real processes, with models so small that they take no time."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from workspace import ROOT, Finished, Workspace

from benchmarks.contenders.process import Worker, start_workers
from benchmarks.contenders.protocol import Command, WorkerSpec
from benchmarks.contenders.selection import choose_peers
from benchmarks.options import Options
from benchmarks.parts.training import TrainingComparison, measure_workloads
from benchmarks.report.results import BenchmarkReport
from benchmarks.workloads import SAME_FUNCTION, WORKLOADS
from folio.config.run import RunConfig
from folio.runtime.errors import FolioError

TINY_MODEL = ("model=debug", "tokenizer=char", "data=text_file", "training.batch_size=2", "schedule.warmup_steps=2")


@pytest.fixture
def tiny(compose: Callable[..., RunConfig], workspace: Workspace) -> Callable[..., RunConfig]:
    """Compose the config of a tiny model on the workspace's text, complete enough for a contender."""

    def config(*overrides: str) -> RunConfig:
        text = f"data.path={workspace.folder / 'tiny.txt'}"
        data_dir = f"paths.data_dir={workspace.folder / 'data'}"
        composed = compose(*SAME_FUNCTION, *TINY_MODEL, text, data_dir, "model.bias=true", *overrides)
        n_symbols = len(set((workspace.folder / "tiny.txt").read_text()))
        return composed.model_copy(update={"model": composed.model.model_copy(update={"vocab_size": n_symbols})})

    return config


@pytest.fixture
def options(tiny: Callable[..., RunConfig]) -> Options:
    return Options(
        rounds=2,
        peers=choose_peers("bare", None),
        # Without the sizes of the workloads: these tests need the processes, not the numbers.
        compose=lambda overrides: tiny(),
        threads=1,
        say=lambda text: None,
    )


@pytest.fixture
def pair(tiny: Callable[..., RunConfig], options: Options, tmp_path: Path) -> Iterator[list[Worker]]:
    """Folio and the bare loop as workers, ready."""
    config = tiny("training.checkpoint_every_steps=4")
    with start_workers([options.spec(config, tmp_path, name) for name in ("folio", "bare")]) as workers:
        yield workers


@pytest.fixture
def run_benchmark(workspace: Workspace) -> Callable[..., Finished]:
    """Run the command in the workspace: run_benchmark("step", "--rounds", "1")."""

    def run(*arguments: str, **environment: str) -> Finished:
        paths = filter(None, (str(ROOT), environment.get("PYTHONPATH")))
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        return workspace.run("-m", "benchmarks", *arguments, **environment)

    return run


def test_two_contenders_take_turns_and_have_the_same_losses(pair: list[Worker], tmp_path: Path) -> None:
    replies: dict[str, list[dict[str, Any]]] = {"folio": [], "bare": []}
    for n_steps in (1, 4, 4):
        for worker in pair:
            replies[worker.contender].append(worker.ask(Command("steps", n_steps)))
    for ours, bare, n_steps in zip(replies["folio"], replies["bare"], (1, 4, 4), strict=True):
        assert len(ours["losses"]) == ours["n_steps"] == n_steps
        assert ours["losses"] == pytest.approx(bare["losses"], abs=1e-5)
        assert ours["elapsed_s"] > sum(ours["checkpoint_s"])
    # Steps 1, 2-5 and 6-9: checkpoints at 4 and 8.
    assert [len(reply["checkpoint_s"]) for reply in replies["folio"]] == [0, 1, 1]
    assert (tmp_path / "folio" / "checkpoints" / "last.ckpt").is_file()
    assert list((tmp_path / "folio" / "tensorboard").iterdir())
    for worker in pair:
        assert 0 < worker.facts["rss_before_bytes"] <= worker.ask(Command("memory"))["peak_bytes"]
    ours, bare = (worker.ask(Command("validate"))["loss_nats"] for worker in pair)
    assert ours == pytest.approx(bare, abs=1e-5)


def test_a_contender_with_other_weights_is_refused(
    tiny: Callable[..., RunConfig], options: Options, tmp_path: Path
) -> None:
    config = tiny()
    specs = [options.spec(config, tmp_path, "folio"), options.spec(tiny("seed=2"), tmp_path, "bare", weights=None)]
    with start_workers(specs) as workers, pytest.raises(FolioError, match="at step 1 the losses are") as refused:
        TrainingComparison(WORKLOADS["a"], config, workers, options)
    assert "\n" not in str(refused.value)


def test_a_contender_that_cannot_start_says_why_in_one_line(
    options: Options, tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text("GPT = 1\n")
    broken = options.spec(tiny("model.activation=gelu"), tmp_path, "nanogpt", weights=None, nanogpt=str(tmp_path))
    with pytest.raises(FolioError, match=r"contender nanogpt: .*defines no GPTConfig"), start_workers([broken]):
        pass
    (tmp_path / "model.py").write_text("raise RuntimeError('out of order')\n")
    with (
        pytest.raises(FolioError, match=r"ended with exit code 1: RuntimeError: out of order"),
        start_workers([broken]),
    ):
        pass


def test_a_measurement_adds_series_and_checks(options: Options) -> None:
    report = BenchmarkReport({})
    measure_workloads([WORKLOADS["b"]], ("step", "memory", "overhead"), options, report)
    assert [(series.part, series.contender, len(series.values)) for series in report.series] == [
        ("step", "Folio", 2),
        ("step", "bare loop", 2),
        ("memory", "Folio", 1),
        ("memory", "bare loop", 1),
        ("overhead", "Folio", 4),
        ("overhead", "bare loop", 4),
        ("overhead", "Lightning alone", 4),
    ]
    assert ["overhead_per_cent" in series.facts for series in report.series[-3:]] == [True, False, True]
    assert [check["contender"] for check in report.checks] == ["folio", "bare", "lightning"]


def test_the_command_prints_tables_and_writes_json_and_plots(
    workspace: Workspace, run_benchmark: Callable[..., Finished]
) -> None:
    finished = run_benchmark(
        *("step", "data", "--work", "a", "--rounds", "1", "--threads", "1", "--peers", "bare"),
        *("--output", "numbers.json", "--plots", "plots"),
        *(word for override in (*TINY_MODEL, "data.path=tiny.txt") for word in ("--set", override)),
    )
    assert finished.code == 0, finished.stderr
    for word in ("matrix product, fp32", "bare loop", "ms/step", "one gather", "MFU", "differ by at most"):
        assert word in finished.stdout
    assert "a: round 1 of 1" in finished.stderr
    numbers = json.loads((workspace.folder / "numbers.json").read_text())
    assert numbers["machine"]["threads"] == 1
    assert {series["part"] for series in numbers["series"]} == {"hardware", "step", "data"}
    assert imread(workspace.folder / "plots" / "step.png").std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["setp"],
            "part=setp is not one of hardware, step, overhead, memory, data, loss, layers, generation, startup",
        ),
        (["step", "--rounds", "0"], "--rounds=0 must be 1 or more"),
        (["step", "--threads", "0"], "--threads=0 must be 1 or more"),
        (["step", "--work", "a,z"], "--work=z is not one of a, b, c, d, e"),
        (["quality", "--recipe", "speedrun"], "--recipe=speedrun is not one of speedrun_char_cpu, speedrun_bpe_cpu"),
        (["step", "--nanogpt", "nowhere"], "--nanogpt=nowhere has no model.py"),
        (["step", "--peers", "minigpt"], "--peers=minigpt is not one of bare, hf, nanogpt"),
        (["step", "--output", "no/folder/x.json"], "--output=no/folder/x.json cannot be written"),
        (["step", "--plots", "tiny.txt"], "--plots=tiny.txt is a file"),
        (["step", "--set", "model.n_layer=3"], "did you mean model.n_layers?"),
    ],
)
def test_bad_input_is_answered_in_one_line_before_torch_is_loaded(
    arguments: list[str],
    message: str,
    run_benchmark: Callable[..., Finished],
    forbid_imports: Callable[..., dict[str, str]],
) -> None:
    finished = run_benchmark(*arguments, **forbid_imports("torch", "lightning", "matplotlib"))
    assert message in finished.error_line()


def test_a_worker_spec_can_be_written_and_read(tmp_path: Path) -> None:
    spec = WorkerSpec(task="train", contender="bare", config={"seed": 1}, folder="x", weights=None, threads=2)
    spec.write(tmp_path / "spec.json")
    assert WorkerSpec.read(tmp_path / "spec.json") == spec
