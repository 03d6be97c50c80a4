"""One experiment in one, two and four processes gives the same results, also after one of them was killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workspace import FAMILIES, ROOT, TINY, Run, Workspace, choose

DATA = TINY[:-1]
RECIPE = (
    *DATA,
    "logger=csv",
    "schedule=constant",  # which does not depend on the number of steps
    "training.batch_size=8",
    "training.max_steps=24",
    "training.validate_every_steps=12",
    "training.checkpoint_every_steps=6",
    "training.log_every_steps=3",
)
LONG = (
    *RECIPE,
    "model.dropout=0.1",
    "training.max_steps=2000",
    "training.validate_every_steps=20",
    "training.checkpoint_every_steps=5",
)
CURVES = ("train/loss_nats", "train/gradient_norm", "train/accuracy", "val/loss_nats", "val/accuracy")


def on(n_processes: int, micro_batch_size: int | None = None, strategy: str = "ddp") -> tuple[str, ...]:
    """Return the overrides for so many processes."""
    micro_batch = () if micro_batch_size is None else (f"training.micro_batch_size={micro_batch_size}",)
    trainer = "cpu" if n_processes == 1 and strategy == "ddp" else f"{strategy}_cpu"
    return (f"trainer={trainer}", f"trainer.devices={n_processes}", *micro_batch)


def assert_same_experiment(run: Run, alone: Run, without_step: int | None = None) -> None:
    """Compare results up to another order of float32 sums."""
    for name in CURVES:
        ours, expected = (
            [point for point in each.curve(name, "csv") if point[0] != without_step] for each in (run, alone)
        )
        assert [step for step, _ in ours] == [step for step, _ in expected]
        assert [value for _, value in ours] == pytest.approx([value for _, value in expected], rel=1e-3, abs=1e-5), name
    assert run.metrics["n_tokens_seen"] == alone.metrics["n_tokens_seen"]
    assert run.metrics["val/loss_nats"] == pytest.approx(alone.metrics["val/loss_nats"], rel=1e-5)
    # Adam divides by the size of a gradient, so the sign of one close to zero is random.
    expected = alone.weights()
    distance = sum((weight - expected[key]).norm() ** 2 for key, weight in run.weights().items()) ** 0.5
    assert distance < 1e-2 * sum(weight.norm() ** 2 for weight in expected.values()) ** 0.5


@pytest.fixture(scope="module")
def alone(make_workspace: Callable[[], Workspace]) -> Run:
    """The run in one process, without accumulation."""
    return make_workspace().train(*RECIPE, *on(1))


def test_two_processes_with_accumulation_equal_one_and_only_one_writes(alone: Run, workspace: Workspace) -> None:
    output = workspace.must("train.py", *RECIPE, *on(2, 2))
    (folder,) = workspace.runs()
    run = Run(folder)
    assert_same_experiment(run, alone)
    assert run.metrics["n_processes"] == 2
    assert "8 sequences a step = 2 devices x 2 at once x 2 times" in output
    for line in ("training in", "step 12: val loss", "step 24: val loss", "run folder"):
        assert output.count(line) == 1 + (line == "run folder"), output  # in the table, and at the end
    assert {file.name for file in folder.iterdir()} == {file.name for file in alone.folder.iterdir()}
    assert (folder / "train.log").read_text().count("step 24: val loss") == 1
    assert run.samples.count("## Step") == 2
    assert "the same" in workspace.must("scripts/evaluate.py", "latest")


def test_two_sharded_processes_equal_one(alone: Run, workspace: Workspace) -> None:
    output = workspace.must("train.py", *RECIPE, *on(2, 2, "fsdp"))
    (folder,) = workspace.runs()
    run = Run(folder)
    assert_same_experiment(run, alone)
    assert "2 processes by fsdp" in output
    assert run.samples == alone.samples
    assert len(list(folder.glob("checkpoints/shards/*/*.distcp"))) == 2, "best and last share the shards of one step"
    assert run.checkpoint().keys() == alone.checkpoint().keys()
    assert "the same" in workspace.must("scripts/evaluate.py", "latest")


@pytest.mark.slow
def test_a_sharded_run_with_muon_and_an_average_equals_one_process(make_workspace: Callable[[], Workspace]) -> None:
    extras = ("optimizer=muon", "callbacks=[default,ema]", "callbacks.ema.decay=0.9", "logger=[csv,tensorboard]")
    recipe = choose(RECIPE, *extras)
    one, four = (make_workspace().train(*recipe, *where) for where in (on(1), on(4, strategy="fsdp")))
    assert_same_experiment(four, one)
    assert four.samples == one.samples
    assert four.events().Tags()["images"] == one.events().Tags()["images"]


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the ids of the processes that train, in the order of their ranks."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    return sorted(pid for pid, line in found.items() if b"spawn_main" in line)


def test_a_killed_process_ends_the_run_in_one_line_and_another_number_can_resume(
    make_workspace: Callable[[], Workspace],
) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    recipe = [override for override in LONG if "dropout" not in override]
    process = workspace.start_until("step 20: val loss", "train.py", *recipe, *on(2))
    killed_at = time.monotonic()
    os.kill(children(process)[1], signal.SIGKILL)
    output, _ = process.communicate()
    assert time.monotonic() - killed_at < 60
    assert process.returncode == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    match = re.search(r"process 1 of 2 was killed by SIGKILL.*last\.ckpt has step (\d+): resume with .*resume=", line)
    assert match, output
    assert "Traceback" not in output
    (folder,) = workspace.runs()
    run, step = Run(folder), int(match[1])
    assert run.checkpoint()["global_step"] == step
    to_end = f"training.max_steps={step + 20 - step % 20}"
    workspace.must("train.py", "resume=latest", to_end, *on(1))
    undisturbed = elsewhere.train(*recipe, to_end, *on(1))
    assert_same_experiment(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("extras", [(), ("optimizer=muon", "callbacks=[default,ema]")], ids=" ".join)
@pytest.mark.parametrize("n_processes", [2, 4])
def test_a_sharded_run_with_a_killed_process_ends_within_a_minute_and_resumes_to_the_same_bits(
    n_processes: int, extras: tuple[str, ...], make_workspace: Callable[[], Workspace]
) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    recipe = choose(LONG, *on(n_processes, strategy="fsdp"), *extras)
    process = workspace.start_until("step 20: val loss", "train.py", *recipe)
    killed_at = time.monotonic()
    os.kill(children(process)[-1], signal.SIGKILL)
    output, _ = process.communicate()
    assert time.monotonic() - killed_at < 60
    assert process.returncode == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    match = re.search(rf"process {n_processes - 1} of {n_processes} was killed by SIGKILL.*has step (\d+)", line)
    assert match, output
    (folder,) = workspace.runs()
    run, step = Run(folder), int(match[1])
    assert run.checkpoint()["global_step"] == step
    assert len(run.checkpoint()["folio"]["ranks"]) == n_processes
    to_end = f"training.max_steps={step + 20 - step % 20}"
    workspace.must("train.py", "resume=latest", to_end)
    undisturbed = elsewhere.train(*recipe, to_end)
    assert run.equals(undisturbed)
    assert run.samples == undisturbed.samples
    for name in ("train/loss_nats", "val/loss_nats"):
        assert run.curve(name, "csv") == undisturbed.curve(name, "csv")
    assert sorted(path.suffix for path in (folder / "checkpoints" / "shards").iterdir()) == [""]


@pytest.mark.slow
def test_sharding_in_mixed_precision_with_recomputed_blocks_equals_ddp(make_workspace: Callable[[], Workspace]) -> None:
    mixed = ("trainer.precision=bf16-mixed", "trainer.activation_checkpointing=true")
    whole, sharded = (make_workspace().train(*RECIPE, *on(2, strategy=name), *mixed) for name in ("ddp", "fsdp"))
    for name in ("train/loss_nats", "val/loss_nats", "train/gradient_norm"):
        expected = [value for _, value in whole.curve(name, "csv")]
        assert [value for _, value in sharded.curve(name, "csv")] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_processes_stop_training_when_their_parent_is_killed(workspace: Workspace) -> None:
    process = workspace.start_until("step 20: val loss", "train.py", *LONG, *on(2))
    trained = children(process)
    assert len(trained) == 2
    process.kill()
    process.communicate()  # returns when the last process with its output has ended
    workspace.must("train.py", "resume=latest", "training.max_steps=1", *on(1), "dry_run=true")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_processes", "micro_batch_size", "strategy"),
    [(1, 2, "ddp"), (4, None, "ddp"), (4, 1, "ddp"), (1, None, "fsdp"), (4, 1, "fsdp")],
)
def test_the_number_of_processes_and_accumulation_do_not_change_the_results(
    n_processes: int, micro_batch_size: int | None, strategy: str, alone: Run, workspace: Workspace
) -> None:
    assert_same_experiment(workspace.train(*RECIPE, *on(n_processes, micro_batch_size, strategy)), alone)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_each_objective_gives_the_same_results_in_two_processes(
    family: str, strategy: str, make_workspace: Callable[[], Workspace]
) -> None:
    """Masked and prefix models have different numbers of targets in each process."""
    places = (on(1), on(2, strategy=strategy))
    one, two = (make_workspace().train(*RECIPE, *FAMILIES[family], *place) for place in places)
    assert_same_experiment(two, one)
    names = {name for name in one.metrics if name.startswith("val/")}
    assert {name: two.metrics[name] for name in names} == pytest.approx(
        {name: one.metrics[name] for name in names}, rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (on(2), on(1, 2)),
        (on(2), on(4, 2)),
        (on(2, strategy="fsdp"), on(1, 2)),
        (on(2, strategy="fsdp"), on(4, 2, "fsdp")),
        (on(4, strategy="fsdp"), on(2, strategy="fsdp")),
        (on(2), on(2, strategy="fsdp")),
    ],
    ids=" ".join,
)
def test_a_run_of_two_processes_can_be_resumed_with_fewer_or_more(
    first: tuple[str, ...], then: tuple[str, ...], alone: Run, workspace: Workspace
) -> None:
    run = workspace.train(*RECIPE, *first, "training.max_steps=14")  # in the middle of a logging interval
    workspace.must("train.py", "resume=latest", "training.max_steps=24", *then)
    curves = run.folder / "csv" / "metrics.csv"
    # The last step of the first part is logged and validated whatever the intervals.
    kept = [line for line in curves.read_text().splitlines(keepends=True) if not line.startswith("14,")]
    curves.write_text("".join(kept))
    assert_same_experiment(run, alone, without_step=15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "where"),
    [(signal.SIGINT, on(2)), (signal.SIGTERM, on(2)), (signal.SIGINT, on(2, strategy="fsdp"))],
    ids=str,
)
def test_a_signal_saves_in_all_processes_and_the_resumed_run_ends_with_the_same_bits(
    number: signal.Signals, where: tuple[str, ...], make_workspace: Callable[[], Workspace]
) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    process = workspace.start_until("step 20: val loss", "train.py", *LONG, *where)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 128 + number
    assert "stopping after this step" in output
    (folder,) = workspace.runs()
    run = Run(folder)
    stopped_at = run.checkpoint()["global_step"]
    assert f"stopped by {number.name}; last.ckpt has step {stopped_at}: resume with " in output
    assert run.metrics["status"] == "interrupted"
    assert len(run.checkpoint()["folio"]["ranks"]) == 2
    to_end = f"training.max_steps={stopped_at + 30}"
    workspace.must("train.py", "resume=latest", to_end)
    undisturbed = elsewhere.train(*LONG, *where, to_end)
    assert run.equals(undisturbed)
    assert run.curve("train/loss_nats", "csv") == undisturbed.curve("train/loss_nats", "csv")
    assert run.curve("val/loss_nats", "csv") == undisturbed.curve("val/loss_nats", "csv")


SHORT = (*DATA, "schedule=constant", "training.max_steps=6")
"""Few overrides, because the folder of a sweep's job is named after them."""

PARALLEL = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), PARALLEL], ids=["sequential", "parallel"])
def test_each_job_of_a_sweep_starts_its_own_processes(launcher: tuple[str, ...], workspace: Workspace) -> None:
    output = workspace.must("train.py", "-m", *SHORT, *on(2), *launcher, "seed=1,2")
    for number in (1, 2) if launcher else ():
        assert f"\n[{number}] job {number} of 2" in output
    assert sorted(Run(folder).metrics["seed"] for folder in workspace.runs()) == [1, 2]
    assert [Run(folder).metrics["n_processes"] for folder in workspace.runs()] == [2, 2]


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "train.py"))


def torchrun(workspace: Workspace, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *TORCHRUN, *args]
    return subprocess.run(
        command, cwd=workspace.folder, env=workspace.environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_processes_that_torchrun_starts_are_one_run(alone: Run, workspace: Workspace) -> None:
    finished = torchrun(workspace, *RECIPE, *on(2))
    assert finished.returncode == 0, finished.stderr
    (folder,) = workspace.runs()
    assert_same_experiment(Run(folder), alone)
    assert finished.stdout.count("step 24: val loss") == 1


@pytest.mark.slow
def test_torchrun_must_agree_with_the_config_and_cannot_start_a_sweep(workspace: Workspace) -> None:
    refused = torchrun(workspace, *RECIPE, *on(4))
    assert refused.returncode != 0
    assert "torchrun has started 2 processes" in refused.stderr
    assert "trainer.devices=2 trainer.num_nodes=1" in refused.stderr
    refused = torchrun(workspace, "-m", *SHORT, *on(2), "seed=1,2")
    assert refused.returncode != 0
    assert "-m under torchrun" in refused.stderr
    assert workspace.runs() == []


LOCAL_JOBS = ("-m", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20")


@pytest.mark.slow
def test_a_sweep_by_submitit_has_the_usual_folders(workspace: Workspace) -> None:
    finished = workspace.run("train.py", *LOCAL_JOBS, *SHORT, *on(1), "seed=1,2")
    assert finished.code == 0, finished.stdout + finished.stderr
    assert sorted(Run(folder).metrics["seed"] for folder in workspace.runs()) == [1, 2]
    assert {folder.parent.parent.parent.name for folder in workspace.runs()} == {"multirun"}


@pytest.mark.slow
def test_a_job_preempted_under_submitit_saves_and_resumes_in_its_folder(workspace: Workspace) -> None:
    """The signal is the one that submitit requests from SLURM before a time limit or a preemption."""
    overrides = (*SHORT[:-1], *on(2), "training.max_steps=200", "training.validate_every_steps=20", "seed=3")
    process = workspace.start("train.py", *LOCAL_JOBS, *overrides)
    log = wait_for(lambda: next(iter(workspace.folder.glob("outputs/multirun/*/*/*/train.log")), None), process)
    wait_for(lambda: "step 20: val loss" in log.read_text() or None, process)
    job = wait_for(lambda: next(iter(tasks_of_submitit(workspace)), None), process)
    os.kill(job, signal.SIGUSR2)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    (folder,) = workspace.runs()
    assert Run(folder).metrics["status"] == "finished"
    assert Run(folder).metrics["step"] == 200
    text = log.read_text()
    assert "stopped by SIGUSR2; last.ckpt has step" in text
    assert text.count("training in") == text.count("resuming in") == 1


def wait_for(find: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Return what `find` finds, as soon as it finds something while the process is alive."""
    while process.poll() is None:
        found = find()
        if found is not None:
            return found
        time.sleep(0.2)
    pytest.fail(process.communicate()[0])


def tasks_of_submitit(workspace: Workspace) -> list[int]:
    """Return the ids of submitit's processes for this workspace."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, here = (entry / "cmdline").read_bytes(), (entry / "cwd").resolve()
        except OSError:  # it has just ended
            continue
        if b"submitit.core._submit" in line and here == workspace.folder.resolve():
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_an_error_in_all_processes_is_one_line(workspace: Workspace) -> None:
    line = workspace.run("train.py", *RECIPE, *on(2), "optimizer.learning_rate=1e30").error_line()
    assert "not finite" in line
    (folder,) = workspace.runs()
    assert Run(folder).metrics["status"] == "diverged"
