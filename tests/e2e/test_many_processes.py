"""The same experiment in one, two and four processes, and what becomes of it when one of them does not live on."""

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
import torch
from workspace import FAMILIES, ROOT, TINY, Run, Workspace

DATA = TINY[:-1]
RECIPE = (
    *DATA,
    "logger=csv",
    "schedule=constant",  # which does not know where a run ends
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
OWN = {"elapsed_s", "train/tokens_per_s", "git_commit", "n_processes", "device"}
"""Of metrics.json, what belongs to one execution."""


def on(n_processes: int, micro_batch_size: int | None = None) -> tuple[str, ...]:
    """The words for so many processes."""
    cut = () if micro_batch_size is None else (f"training.micro_batch_size={micro_batch_size}",)
    return ("trainer=cpu" if n_processes == 1 else "trainer=ddp_cpu", f"trainer.devices={n_processes}", *cut)


def assert_same_experiment(run: Run, alone: Run, without_step: int | None = None) -> None:
    """Within what another order of adding float32 numbers makes of it."""
    for name in CURVES:
        ours, expected = (
            [point for point in each.curve(name, "csv") if point[0] != without_step] for each in (run, alone)
        )
        assert [step for step, _ in ours] == [step for step, _ in expected]
        assert [value for _, value in ours] == pytest.approx([value for _, value in expected], rel=1e-3, abs=1e-5), name
    assert run.metrics["n_tokens_seen"] == alone.metrics["n_tokens_seen"]
    assert run.metrics["val/loss_nats"] == pytest.approx(alone.metrics["val/loss_nats"], rel=1e-5)
    # Adam divides by the size of a gradient, so one that is all but zero has a sign by chance.
    expected = alone.weights()
    distance = sum((weight - expected[key]).norm() ** 2 for key, weight in run.weights().items()) ** 0.5
    assert distance < 1e-2 * sum(weight.norm() ** 2 for weight in expected.values()) ** 0.5


@pytest.fixture(scope="module")
def alone(make_workspace: Callable[[], Workspace]) -> Run:
    """One process, the whole batch at once."""
    return make_workspace().train(*RECIPE, *on(1))


def test_two_processes_with_accumulation_do_what_one_does_and_one_of_them_writes(
    alone: Run, workspace: Workspace
) -> None:
    said = workspace.must("train.py", *RECIPE, *on(2, 2))
    (folder,) = workspace.runs()
    run = Run(folder)
    assert_same_experiment(run, alone)
    assert run.metrics["n_processes"] == 2
    assert "8 sequences a step = 2 devices x 2 at once x 2 times" in said
    for line in ("training in", "step 12: val loss", "step 24: val loss", "run folder"):
        assert said.count(line) == 1 + (line == "run folder"), said  # in the table, and at the end
    assert {file.name for file in folder.iterdir()} == {file.name for file in alone.folder.iterdir()}
    assert (folder / "train.log").read_text().count("step 24: val loss") == 1
    assert run.samples.count("## Step") == 2
    assert "the same" in workspace.must("scripts/evaluate.py", "latest")


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train, in the order of their ranks."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    return sorted(pid for pid, line in found.items() if b"spawn_main" in line)


def told_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    pytest.fail(f"{words!r} was not said:\n{said}")


def test_a_killed_process_ends_the_run_with_a_line_and_another_number_of_them_goes_on(
    make_workspace: Callable[[], Workspace],
) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    recipe = [word for word in LONG if "dropout" not in word]
    process = workspace.start("train.py", *recipe, *on(2))
    told_until(process, "step 20: val loss")
    killed_at = time.monotonic()
    os.kill(children(process)[1], signal.SIGKILL)
    said, _ = process.communicate()
    assert time.monotonic() - killed_at < 60
    assert process.returncode == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    told = re.search(r"process 1 of 2 was killed by SIGKILL.*last\.ckpt has step (\d+): resume with .*resume=", line)
    assert told, said
    assert "Traceback" not in said
    (folder,) = workspace.runs()
    run, step = Run(folder), int(told[1])
    assert run.checkpoint()["global_step"] == step
    to_end = f"training.max_steps={step + 20 - step % 20}"
    workspace.must("train.py", "resume=latest", to_end, *on(1))
    straight = elsewhere.train(*recipe, to_end, *on(1))
    assert_same_experiment(run, straight)


@pytest.mark.slow
def test_processes_whose_starter_is_killed_train_no_longer(workspace: Workspace) -> None:
    process = workspace.start("train.py", *LONG, *on(2))
    told_until(process, "step 20: val loss")
    trained = children(process)
    assert len(trained) == 2
    process.kill()
    process.communicate()  # ends when the last of those that could write to it has ended
    workspace.must("train.py", "resume=latest", "training.max_steps=1", *on(1), "dry_run=true")


@pytest.mark.slow
@pytest.mark.parametrize(("n_processes", "micro_batch_size"), [(1, 2), (4, None), (4, 1)])
def test_any_number_of_processes_and_any_accumulation_are_the_same_experiment(
    n_processes: int, micro_batch_size: int | None, alone: Run, workspace: Workspace
) -> None:
    assert_same_experiment(workspace.train(*RECIPE, *on(n_processes, micro_batch_size)), alone)


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILIES))
def test_each_objective_is_the_same_experiment_in_two_processes(
    family: str, make_workspace: Callable[[], Workspace]
) -> None:
    """Masked and prefix models ask for other numbers of targets in each process."""
    one, two = (make_workspace().train(*RECIPE, *FAMILIES[family], *on(n)) for n in (1, 2))
    assert_same_experiment(two, one)
    names = {name for name in one.metrics if name.startswith("val/")}
    assert {name: two.metrics[name] for name in names} == pytest.approx(
        {name: one.metrics[name] for name in names}, rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 4])
def test_a_run_of_two_processes_goes_on_with_fewer_or_more(n_processes: int, alone: Run, workspace: Workspace) -> None:
    run = workspace.train(*RECIPE, *on(2), "training.max_steps=14")  # in the middle of what a point of a curve covers
    workspace.must("train.py", "resume=latest", "training.max_steps=24", *on(n_processes, 2))
    curves = run.folder / "csv" / "metrics.csv"
    # The last step of the first part is drawn, and validated, whatever the intervals.
    kept = [line for line in curves.read_text().splitlines(keepends=True) if not line.startswith("14,")]
    curves.write_text("".join(kept))
    assert_same_experiment(run, alone, without_step=15)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_in_all_processes_and_the_run_ends_in_the_bits_of_one_that_was_not_stopped(
    number: signal.Signals, make_workspace: Callable[[], Workspace]
) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    process = workspace.start("train.py", *LONG, *on(2))
    told_until(process, "step 20: val loss")
    process.send_signal(number)
    said, _ = process.communicate()
    assert process.returncode == 128 + number
    assert "stopping after this step" in said
    (folder,) = workspace.runs()
    run = Run(folder)
    stopped_at = run.checkpoint()["global_step"]
    assert f"stopped by {number.name}; last.ckpt has step {stopped_at}: resume with " in said
    assert run.metrics["status"] == "interrupted"
    assert len(run.checkpoint()["folio"]["ranks"]) == 2
    to_end = f"training.max_steps={stopped_at + 30}"
    workspace.must("train.py", "resume=latest", to_end)
    straight = elsewhere.train(*LONG, *on(2), to_end)
    assert run.equals(straight)
    assert run.curve("train/loss_nats", "csv") == straight.curve("train/loss_nats", "csv")
    assert run.curve("val/loss_nats", "csv") == straight.curve("val/loss_nats", "csv")


SHORT = (*DATA, "schedule=constant", "training.max_steps=6")
"""Few words: the folder of a job of a sweep is named after them."""


SIDE_BY_SIDE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), SIDE_BY_SIDE], ids=["one-after-the-other", "side-by-side"])
def test_each_job_of_a_sweep_starts_processes_of_its_own(launcher: tuple[str, ...], workspace: Workspace) -> None:
    said = workspace.must("train.py", "-m", *SHORT, *on(2), *launcher, "seed=1,2")
    for number in (1, 2) if launcher else ():
        assert f"\n[{number}] step 6: val loss" in said
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
    ended = torchrun(workspace, *RECIPE, *on(2))
    assert ended.returncode == 0, ended.stderr
    (folder,) = workspace.runs()
    assert_same_experiment(Run(folder), alone)
    assert ended.stdout.count("step 24: val loss") == 1


@pytest.mark.slow
def test_torchrun_and_the_config_must_agree_and_a_sweep_needs_no_torchrun(workspace: Workspace) -> None:
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
def test_a_sweep_by_submitit_has_the_folders_of_a_sweep(workspace: Workspace) -> None:
    finished = workspace.run("train.py", *LOCAL_JOBS, *SHORT, *on(1), "seed=1,2")
    assert finished.code == 0, finished.stdout + finished.stderr
    assert sorted(Run(folder).metrics["seed"] for folder in workspace.runs()) == [1, 2]
    assert {folder.parent.parent.parent.name for folder in workspace.runs()} == {"multirun"}


@pytest.mark.slow
def test_a_job_that_submitit_warns_is_saved_and_goes_on_in_its_folder(workspace: Workspace) -> None:
    """As before a time limit, or a preemption, by the signal that submitit asks SLURM for."""
    words = (*SHORT[:-1], *on(2), "training.max_steps=200", "training.validate_every_steps=20", "seed=3")
    process = workspace.start("train.py", *LOCAL_JOBS, *words)
    log = wait_for(lambda: next(iter(workspace.folder.glob("outputs/multirun/*/*/*/train.log")), None), process)
    wait_for(lambda: "step 20: val loss" in log.read_text() or None, process)
    job = wait_for(lambda: next(iter(tasks_of_submitit(workspace)), None), process)
    os.kill(job, signal.SIGUSR2)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    (folder,) = workspace.runs()
    assert Run(folder).metrics["status"] == "finished"
    assert Run(folder).metrics["step"] == 200
    told = log.read_text()
    assert "stopped by SIGUSR2 after step" in told
    assert told.count("training in") == told.count("resuming in") == 1


def wait_for(look: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What it finds, as soon as it finds something, while the process lives."""
    while process.poll() is None:
        found = look()
        if found is not None:
            return found
        time.sleep(0.2)
    pytest.fail(process.communicate()[0])


def tasks_of_submitit(workspace: Workspace) -> list[int]:
    """The processes that submitit runs a job of this workspace in."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, here = (entry / "cmdline").read_bytes(), (entry / "cwd").resolve()
        except OSError:  # it has ended meanwhile
            continue
        if b"submitit.core._submit" in line and here == workspace.folder.resolve():
            found.append(int(entry.name))
    return found


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_are_the_same_experiment_as_one(strategy: str, make_workspace: Callable[[], Workspace]) -> None:
    exact = "trainer.precision=32-true"
    one = make_workspace().train(*RECIPE, "trainer=gpu", exact)
    workspace = make_workspace()
    two = workspace.train(*RECIPE, f"trainer={strategy}", "trainer.devices=2", exact)
    assert_same_experiment(two, one)
    workspace.must("scripts/generate.py", "latest", "--prompt", "ROMEO:")
    workspace.must("train.py", "resume=latest", "trainer=gpu", exact, "training.max_steps=30")
    assert two.metrics["step"] == 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_sharding_on_one_gpu_changes_nothing(make_workspace: Callable[[], Workspace]) -> None:
    exact = "trainer.precision=32-true"
    plain, sharded = (
        make_workspace().train(*RECIPE, f"trainer={name}", "trainer.devices=1", exact) for name in ("gpu", "fsdp")
    )
    assert_same_experiment(sharded, plain)


@pytest.mark.slow
def test_what_ends_all_processes_at_one_step_is_one_line(workspace: Workspace) -> None:
    line = workspace.run("train.py", *RECIPE, *on(2), "optimizer.learning_rate=1e30").error_line()
    assert "not finite" in line
    (folder,) = workspace.runs()
    assert Run(folder).metrics["status"] == "diverged"
