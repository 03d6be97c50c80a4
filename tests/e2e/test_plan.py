"""scripts/plan.py: whether a training fits and how long it takes, beside what a training took."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest
from workspace import TINY, Workspace

from folio.distributed import cost_model as scale
from folio.models import GPTConfig

TOLERANCE = 0.15
"""Of planned memory, as docs/scale.md states it."""

STEPS = (
    "training.max_steps=3",
    "training.validate_every_steps=3",
    "training.checkpoint_every_steps=3",
    "callbacks.samples.max_new_tokens=0",
    "schedule=constant",
    "logger=none",
    "model.dropout=0.0",
)


def test_a_large_model_is_planned_with_the_ways_that_fit(workspace: Workspace) -> None:
    said = workspace.must("scripts/plan.py", "model=gpt2_xl", "trainer=ddp", "devices=8", "memory=24")
    assert "1,557,611,200 parameters" in said
    assert "31,152,224,000" in said, "20 tokens for each"
    fits = {line[:34].strip(): line[34:].split()[2] for line in said.splitlines() if line.startswith(("ddp ", "fsdp "))}
    assert fits["ddp"] == "no"
    assert fits["fsdp"] == "yes"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("devices=many",), ("devices=many", "a number")),
        (("memory=-1",), ("memory=-1", "above 0")),
        (("model.n_layer=3",), ("model.n_layer",)),
        (("tokenizer=char",), ("tokenizer=char", "model.vocab_size")),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    words: tuple[str, ...], told: tuple[str, ...], workspace: Workspace
) -> None:
    line = workspace.run("scripts/plan.py", *words).error_line()
    assert all(part in line for part in told)


def peak_bytes(workspace: Workspace, *args: str) -> int:
    """Of a whole training."""
    process = subprocess.Popen(
        workspace.command("train.py", *TINY, *args), cwd=workspace.folder, env=workspace.environment,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_planned_memory_is_what_a_run_of_a_few_steps_takes(
    activation_checkpointing: bool, make_workspace: Callable[[], Workspace]
) -> None:
    workspace = make_workspace()
    smallest = peak_bytes(workspace, *STEPS)
    shape = GPTConfig(vocab_size=43, n_layers=8, n_heads=8, d_model=512, context_length=128)
    words = [f"model.{name}={getattr(shape, name)}" for name in ("n_layers", "n_heads", "d_model", "context_length")]
    again = f"trainer.activation_checkpointing={str(activation_checkpointing).lower()}"
    measured = peak_bytes(workspace, *STEPS, *words, "training.batch_size=16", again) - smallest
    planned = scale.memory(shape, n_sequences=16, is_cpu=True, activation_checkpointing=activation_checkpointing)
    assert planned.total == pytest.approx(measured, rel=TOLERANCE)
    assert replace(planned, activations=0.0).total < planned.total
