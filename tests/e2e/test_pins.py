"""Results that a code change may change only on purpose: see `pins.py`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pins import (
    COMMON,
    ENVIRONMENT,
    OLD_RUN,
    RECIPES,
    TRACES,
    copy_old_run,
    describe_arithmetic,
    digest,
    results_of,
    trace_of,
)
from workspace import Run, Workspace

TOLERANCE = 2e-4
"""Relative. Other CPUs sum in another order, and thirty steps let that grow; 2e-6 was seen, and 0 on the same CPU."""


@pytest.fixture(scope="module")
def one_thread(make_workspace: Callable[[], Workspace]) -> Workspace:
    workspace = make_workspace()
    return Workspace(workspace.folder, workspace.environment | ENVIRONMENT)


SLOW = ("encoder_nano", "encoder_decoder_nano")
"""Recipes that take half a minute; the smaller ones of their families run each time."""


@pytest.mark.parametrize(
    "recipe", [pytest.param(recipe, marks=pytest.mark.slow) if recipe in SLOW else recipe for recipe in RECIPES]
)
def test_training_reproduces_the_committed_losses_and_shapes(recipe: str, one_thread: Workspace) -> None:
    expected = json.loads((TRACES / f"{recipe}.json").read_text())
    trace = trace_of(one_thread.train(*COMMON, *RECIPES[recipe]))
    assert trace.pop("state_dict") == expected.pop("state_dict")
    for tag, values in expected.items():
        assert trace[tag] == pytest.approx(values, rel=TOLERANCE), tag


TORCHS_DROPOUT = """
from torch import nn
from folio.models import cpu_elementwise
cpu_elementwise.Dropout.forward = nn.Dropout.forward
"""
"""A sitecustomize.py: with it, dropout draws the masks that it drew before Folio had a faster one."""


def test_a_run_of_an_older_folio_resumes_to_identical_bits_but_for_dropout_masks(
    one_thread: Workspace, tmp_path: Path
) -> None:
    expected = json.loads((OLD_RUN / "expected.json").read_text())
    folder = copy_old_run(one_thread)
    (tmp_path / "sitecustomize.py").write_text(TORCHS_DROPOUT)
    old = Workspace(one_thread.folder, one_thread.environment | {"PYTHONPATH": str(tmp_path)})
    old.must("train.py", f"resume={folder}", "callbacks.checkpoint.keep_every_steps=null")
    resumed = Run(folder)
    assert resumed.metrics["val/loss_nats"] == pytest.approx(expected["val/loss_nats"], rel=TOLERANCE)
    assert resumed.metrics["n_tokens_seen"] == expected["n_tokens_seen"]
    assert [step for step, _ in resumed.curve("train/loss_nats", "csv")] == list(range(1, 41))
    if describe_arithmetic() == expected["arithmetic"]:
        assert digest(resumed.weights()) == expected["weights_sha256"]
        assert results_of(resumed) == expected
    evaluated = one_thread.must("scripts/evaluate.py", str(folder), "--checkpoint", "last")
    assert f"{expected['val/loss_nats']:.4f}" in evaluated
