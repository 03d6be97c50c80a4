"""Runs that are killed at random moments, again and again, end in the bits of those that nobody touched."""

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
    "training.micro_batch_size=4",  # three to a step
    "training.validate_every_steps=16",
    "training.checkpoint_every_steps=6",
    "training.log_every_steps=5",
    "callbacks.checkpoint.keep_every_steps=50",
)
MUON_SHUFFLED = ("optimizer=muon", "data.window_order=shuffled")
OTHERS: dict[str, tuple[str, ...]] = {
    "decoder": MUON_SHUFFLED,
    **{family: (*words, *MUON_SHUFFLED) for family, words in FAMILIES.items()},
    "adamw, random": ("optimizer=adamw", "data.window_order=random"),
    "adam, encoder": (*FAMILIES["masked_lm"], "optimizer=adam"),
    "sgd, random": ("optimizer=sgd", "data.window_order=random"),
    "skipping what is no number": (*MUON_SHUFFLED, "training.on_nan=skip"),
}
CURVES = ("train/loss_nats", "train/gradient_norm", "val/loss_nats")
KILLS = 5
"""Of one run, one after another; the four families alone make twenty."""


def kill(workspace: Workspace, moment: random.Random, *args: str) -> str:
    """Start a training and kill it at a moment of its steps; one time in three in the middle of a checkpoint.

    Returns: how it ended, for whoever reads of a failure. A run that is faster than the moment ends by itself.
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
    while_writing, delay_s = moment.random() < 1 / 3, moment.uniform(0.0, 0.4)
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


def assert_same(killed: Run, straight: Run, logger: str = "csv") -> None:
    """Weights, optimizer, generators and what callbacks count; metrics, curves, samples."""
    for name in ("last", "best", "step=50", "step=200"):
        mine, other = killed.checkpoint(name), straight.checkpoint(name)
        for part in ("state_dict", "optimizer_states", "global_step"):
            assert_equal(mine[part], other[part], f"{name}.{part}")
        for part in ("rng", "train_means", "val", "gradients"):
            assert_equal(mine["folio"][part], other["folio"][part], f"{name}.folio.{part}")
    assert killed.results == straight.results
    for tag in CURVES:
        assert killed.curve(tag, logger) == straight.curve(tag, logger), tag
    assert killed.samples == straight.samples
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


def torture(make_workspace: Callable[[], Workspace], recipe: tuple[str, ...], n_kills: int, seed: int) -> None:
    straight, workspace, moment = make_workspace().train(*recipe), make_workspace(), random.Random(seed)
    for number in range(n_kills):
        print(f"seed {seed}, kill {number + 1}:", kill(workspace, moment, *(("resume=latest",) if number else recipe)))
    workspace.must("train.py", "resume=latest")
    (folder,) = workspace.runs()
    assert_same(Run(folder), straight)


def test_a_run_killed_at_a_random_moment_ends_in_the_bits_of_one_that_was_not(
    make_workspace: Callable[[], Workspace],
) -> None:
    seed = random.randrange(1000)  # another moment each time; a failure prints it
    torture(make_workspace, (*RECIPE, *MUON_SHUFFLED), n_kills=1, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_a_run_killed_five_times_ends_in_the_bits_of_one_that_was_not(
    kind: str, make_workspace: Callable[[], Workspace]
) -> None:
    """Forty kills in all, while checkpoints are written among them, with dropout and accumulation."""
    torture(make_workspace, (*RECIPE, *OTHERS[kind]), KILLS, seed=len(kind))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_in_the_middle_of_validation_ends_in_the_bits_of_one_that_was_not(
    number: signal.Signals, make_workspace: Callable[[], Workspace]
) -> None:
    """Validation is nearly all that these runs do, so that is where the signal comes."""
    recipe = (
        *RECIPE,
        *MUON_SHUFFLED,
        "training.max_steps=50",
        "training.validate_every_steps=1",
        "training.batch_size=4",
    )
    straight, workspace = make_workspace().train(*recipe), make_workspace()
    process = workspace.start("train.py", *recipe)
    assert process.stdout is not None
    assert any(line.startswith("step 8: val") for line in process.stdout)
    process.send_signal(number)
    said = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 128 + number, said
    (folder,) = workspace.runs()
    run = Run(folder)
    assert run.metrics["val/step"] == run.metrics["step"] == run.checkpoint()["global_step"]
    workspace.must("train.py", "resume=latest")
    assert run.results == straight.results
    assert run.equals(straight)
    assert run.samples == straight.samples
