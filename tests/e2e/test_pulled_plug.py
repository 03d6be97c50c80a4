"""Runs that are killed at random moments and resumed end with the same bits as undisturbed runs."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from workspace import FAMILIES, TINY, Run, Workspace

RECIPE = (
    *TINY,
    "model.dropout=0.1",
    "model.context_length=32",
    "logger=csv",
    "training.max_steps=240",
    "training.micro_batch_size=4",  # three per step
    "training.validate_every_steps=16",
    "training.checkpoint_every_steps=6",
    "training.log_every_steps=5",
    "callbacks.checkpoint.keep_every_steps=50",
)
MUON_SHUFFLED = ("optimizer=muon", "data.window_order=shuffled")
RECIPES: dict[str, tuple[str, ...]] = {
    "decoder": MUON_SHUFFLED,
    **{family: (*words, *MUON_SHUFFLED) for family, words in FAMILIES.items()},
    "adamw, random": ("optimizer=adamw", "data.window_order=random"),
    "adam, encoder": (*FAMILIES["masked_lm"], "optimizer=adam"),
    "sgd, random": ("optimizer=sgd", "data.window_order=random"),
    "skipping NaN gradients": (*MUON_SHUFFLED, "training.on_nan=skip"),
}
CURVES = ("train/loss_nats", "train/gradient_norm", "val/loss_nats")
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


def assert_same(killed: Run, undisturbed: Run, logger: str = "csv") -> None:
    """Compare weights, optimizer, random states, metrics, curves and samples."""
    for name in ("last", "best", "step=50", "step=200"):
        mine, other = killed.checkpoint(name), undisturbed.checkpoint(name)
        for part in ("state_dict", "optimizer_states", "global_step"):
            assert_equal(mine[part], other[part], f"{name}.{part}")
        for part in ("rng", "train_means", "val", "gradients"):
            assert_equal(mine["folio"][part], other["folio"][part], f"{name}.folio.{part}")
    assert killed.results == undisturbed.results
    for tag in CURVES:
        assert killed.curve(tag, logger) == undisturbed.curve(tag, logger), tag
    assert killed.samples == undisturbed.samples
    assert not list(killed.folder.rglob("*.tmp"))


def assert_equal(mine: object, other: object, where: str) -> None:
    if isinstance(mine, torch.Tensor):
        assert isinstance(other, torch.Tensor), where
        assert torch.equal(mine, other), where
    elif isinstance(mine, dict):
        assert isinstance(other, dict), where
        assert mine.keys() == other.keys(), where
        for key in mine:
            assert_equal(mine[key], other[key], f"{where}.{key}")
    elif isinstance(mine, list | tuple):
        assert isinstance(other, list | tuple), where
        assert len(mine) == len(other), where
        for number, (one, two) in enumerate(zip(mine, other, strict=True)):
            assert_equal(one, two, f"{where}[{number}]")
    else:
        assert mine == other, where


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
    process = workspace.start("train.py", *recipe)
    assert process.stdout is not None
    assert any(line.startswith("step 8: val") for line in process.stdout)
    process.send_signal(number)
    output = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 128 + number, output
    (folder,) = workspace.runs()
    run = Run(folder)
    assert run.metrics["val/step"] == run.metrics["step"] == run.checkpoint()["global_step"]
    workspace.must("train.py", "resume=latest")
    assert run.results == undisturbed.results
    assert run.equals(undisturbed)
    assert run.samples == undisturbed.samples
