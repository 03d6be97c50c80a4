"""Results that no change of the code may change, unless it means to: see `pins.py`."""

import json
from collections.abc import Callable

import pytest
from pins import COMMON, ENVIRONMENT, OLD_RUN, RECIPES, TRACES, arithmetic, digest, ended, old_run_in, traced
from workspace import Run, Workspace

RELATIVE = 2e-4
"""Other CPUs add up in another order, and thirty steps let that grow: seen 2e-6, on the CPU of the traces 0."""


@pytest.fixture(scope="module")
def one_thread(make_workspace: Callable[[], Workspace]) -> Workspace:
    workspace = make_workspace()
    return Workspace(workspace.folder, workspace.environment | ENVIRONMENT)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_family_trains_to_the_committed_losses_with_the_committed_weights(recipe: str, one_thread: Workspace) -> None:
    expected = json.loads((TRACES / f"{recipe}.json").read_text())
    trace = traced(one_thread.train(*COMMON, *RECIPES[recipe]))
    assert trace.pop("state_dict") == expected.pop("state_dict")
    for tag, values in expected.items():
        assert trace[tag] == pytest.approx(values, rel=RELATIVE), tag


def test_a_run_of_an_older_folio_resumes_to_the_bits_it_would_have_had_and_evaluates_alike(
    one_thread: Workspace,
) -> None:
    expected = json.loads((OLD_RUN / "expected.json").read_text())
    folder = old_run_in(one_thread)
    one_thread.must("train.py", f"resume={folder}", "callbacks.checkpoint.keep_every_steps=null")
    resumed = Run(folder)
    assert resumed.metrics["val/loss_nats"] == pytest.approx(expected["val/loss_nats"], rel=RELATIVE)
    assert resumed.metrics["n_tokens_seen"] == expected["n_tokens_seen"]
    assert [step for step, _ in resumed.curve("train/loss_nats", "csv")] == list(range(1, 41))
    if arithmetic() == expected["arithmetic"]:
        assert digest(resumed.weights()) == expected["weights_sha256"]
        assert ended(resumed) == expected
    evaluated = one_thread.must("scripts/evaluate.py", str(folder), "--checkpoint", "last")
    assert f"{expected['val/loss_nats']:.4f}" in evaluated
