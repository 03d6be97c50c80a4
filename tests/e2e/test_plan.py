"""scripts/plan.py, and its memory estimate next to a measured one."""

import os
import subprocess
from collections.abc import Callable

import pytest
from workspace import TINY, Workspace

from folio.distributed import cost_model
from folio.models import GPTConfig

TOLERANCE = 0.15
"""Relative tolerance of the estimated memory, as stated in docs/scale.md."""

STEPS = (
    "training.max_steps=3",
    "training.validate_every_steps=3",
    "training.checkpoint_every_steps=3",
    "callbacks.samples.max_new_tokens=0",
    "schedule=constant",
    "logger=none",
    "model.dropout=0.0",
)


def test_a_plan_names_the_strategies_that_fit_a_large_model(workspace: Workspace) -> None:
    output = workspace.must("scripts/plan.py", "model=gpt2_xl", "trainer=ddp", "devices=8", "memory=24")
    assert "1,557,611,200 parameters" in output
    assert "31,152,224,000" in output, "20 tokens per parameter"
    fits = {
        line[:34].strip(): line[34:].split()[2] for line in output.splitlines() if line.startswith(("ddp ", "fsdp "))
    }
    assert fits["ddp"] == "no"
    assert fits["fsdp"] == "yes"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("devices=many",), ("devices=many", "a number")),
        (("memory=-1",), ("memory=-1", "above 0")),
        (("model.n_layer=3",), ("model.n_layer",)),
        (("tokenizer=char",), ("tokenizer=char", "model.vocab_size")),
    ],
)
def test_mistakes_are_answered_in_one_line(
    words: tuple[str, ...], expected: tuple[str, ...], workspace: Workspace
) -> None:
    line = workspace.run("scripts/plan.py", *words).error_line()
    assert all(part in line for part in expected)


def peak_bytes(workspace: Workspace, *args: str) -> int:
    """Return the peak memory of a whole run."""
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
def test_estimated_memory_agrees_with_a_run_of_a_few_steps(
    activation_checkpointing: bool, make_workspace: Callable[[], Workspace]
) -> None:
    workspace = make_workspace()
    smallest = peak_bytes(workspace, *STEPS)
    model = GPTConfig(vocab_size=43, n_layers=8, n_heads=8, d_model=512, context_length=128)
    overrides = [f"model.{key}={getattr(model, key)}" for key in ("n_layers", "n_heads", "d_model", "context_length")]
    overrides += [f"trainer.activation_checkpointing={str(activation_checkpointing).lower()}", "training.batch_size=16"]
    measured = peak_bytes(workspace, *STEPS, *overrides) - smallest
    estimated = cost_model.estimate_memory(
        model, n_sequences=16, is_cpu=True, activation_checkpointing=activation_checkpointing
    )
    assert estimated.total == pytest.approx(measured, rel=TOLERANCE)
