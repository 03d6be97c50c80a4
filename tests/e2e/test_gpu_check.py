"""The check on a GPU, rehearsed as a user rehearses it."""

import json

import pytest
from workspace import Workspace


@pytest.mark.slow
def test_a_rehearsal_passes_every_step(workspace: Workspace) -> None:
    """Three minutes on two idle cores; nanoGPT takes no part, because its code is not ours to ship."""
    output = workspace.must("scripts/gpu_check.py", "--rehearse")
    day = json.loads((workspace.folder / "gpu_check.json").read_text())
    assert {step["name"]: step["status"] for step in day["steps"]} == dict.fromkeys(
        ("tests", "resume", "eager", "compiled", "generation", "sharding", "shakespeare"), "passed"
    ), output
    results = {step["name"]: step["results"] for step in day["steps"]}
    assert results["tests"]["failed"] == results["tests"]["skipped"] == results["resume"]["failed"] == 0
    assert results["resume"]["passed"] == 2
    steps = {series["contender"]: series for series in results["compiled"]["series"] if series["part"] == "step"}
    assert steps["Folio"]["facts"]["n_graphs"] >= 1
    whole, shard = (results["sharding"]["runs"][name] for name in ("whole", "shard"))
    assert shard["val/loss_nats"] == pytest.approx(whole["val/loss_nats"], rel=1e-5)
    assert "250" in results["shakespeare"]["runs"]["shakespeare"]["val_loss_nats"]


def test_a_mistyped_step_is_one_line(workspace: Workspace) -> None:
    assert "did you mean resume" in workspace.run("scripts/gpu_check.py", "resmue").error_line()
    line = workspace.run("scripts/gpu_check.py", "--output", "missing/x.json").error_line()
    assert "its folder is missing" in line
