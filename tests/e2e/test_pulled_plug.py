"""Runs that are killed at random moments and resumed end with the same bits as undisturbed runs."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import FREQUENT_CHECKPOINTS, assert_same
from workspace import FAMILIES, Run, Workspace

RECIPE = (*FREQUENT_CHECKPOINTS, "logger=csv", "training.max_steps=240")
MUON_SHUFFLED = ("optimizer=muon", "data.window_order=shuffled")
RECIPES: dict[str, tuple[str, ...]] = {
    "decoder": MUON_SHUFFLED,
    **{family: (*words, *MUON_SHUFFLED) for family, words in FAMILIES.items()},
    "adamw, random": ("optimizer=adamw", "data.window_order=random"),
    "adam, encoder": (*FAMILIES["masked_lm"], "optimizer=adam"),
    "sgd, random": ("optimizer=sgd", "data.window_order=random"),
    "skipping NaN gradients": (*MUON_SHUFFLED, "training.on_nan=skip"),
}
KILLS = 5
"""Kills of one run, one after another."""


def start_and_kill(workspace: Workspace, rng: random.Random, *args: str) -> str:
    """Start a training and kill it at a random moment, one time in three while it writes a checkpoint.

    Returns how it ended, to explain a failure. A fast run may end by itself before.
    """
    process = workspace.start("train.py", *args)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(("training in", "resuming in")):
            folder = workspace.folder / line.split()[2]
            break
    first = {path: path.stat().st_mtime_ns for path in folder.glob("checkpoints/last.ckpt")}
    while process.poll() is None and not has_new_checkpoint(folder, first):
        time.sleep(0.001)
    while_writing, delay_s = rng.random() < 1 / 3, rng.uniform(0.0, 0.4)
    if while_writing:
        while process.poll() is None and not any((folder / "checkpoints").glob(".*.tmp")):
            pass
    else:
        time.sleep(delay_s)
    process.kill()
    process.stdout.close()
    code = process.wait()
    how = "while a checkpoint was written" if while_writing else f"{delay_s:.3f} s after a checkpoint"
    return f"killed {how}, exit code {code}"


def has_new_checkpoint(folder: Path, before: dict[Path, int]) -> bool:
    path = folder / "checkpoints" / "last.ckpt"
    return path.is_file() and before.get(path) != path.stat().st_mtime_ns


def kill_and_compare(make_workspace: Callable[[], Workspace], recipe: tuple[str, ...], n_kills: int, seed: int) -> None:
    """Kill a run so many times, resume it to its end, and compare it with an undisturbed one."""
    undisturbed, workspace, rng = make_workspace().train(*recipe), make_workspace(), random.Random(seed)
    for number in range(n_kills):
        end = start_and_kill(workspace, rng, *(("resume=latest",) if number else recipe))
        print(f"seed {seed}, kill {number + 1}: {end}")
    workspace.must("train.py", "resume=latest")
    (folder,) = workspace.runs()
    assert_same(Run(folder), undisturbed)


def test_a_run_killed_at_a_random_moment_ends_with_the_bits_of_an_undisturbed_run(
    make_workspace: Callable[[], Workspace],
) -> None:
    seed = random.randrange(1000)  # a failure prints it
    kill_and_compare(make_workspace, (*RECIPE, *MUON_SHUFFLED), n_kills=1, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECIPES)
def test_a_run_killed_five_times_ends_with_the_bits_of_an_undisturbed_run(
    kind: str, make_workspace: Callable[[], Workspace]
) -> None:
    """Forty kills in all, some while a checkpoint is written, with dropout and accumulation."""
    kill_and_compare(make_workspace, (*RECIPE, *RECIPES[kind]), KILLS, seed=len(kind))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_during_validation_ends_with_the_bits_of_an_undisturbed_run(
    number: signal.Signals, make_workspace: Callable[[], Workspace]
) -> None:
    """These runs do little but validate, so that is when the signal arrives."""
    recipe = (
        *RECIPE,
        *MUON_SHUFFLED,
        "training.max_steps=50",
        "training.validate_every_steps=1",
        "training.batch_size=4",
    )
    undisturbed, workspace = make_workspace().train(*recipe), make_workspace()
    process = workspace.start_until("step 8: val", "train.py", *recipe)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 128 + number, output
    (folder,) = workspace.runs()
    run = Run(folder)
    assert run.metrics["val/step"] == run.metrics["step"] == run.checkpoint()["global_step"]
    workspace.must("train.py", "resume=latest")
    assert run.results == undisturbed.results
    assert run.equals(undisturbed)
    assert run.samples == undisturbed.samples
