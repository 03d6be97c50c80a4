"""scripts/extrapolate.py and scripts/scaling.py: longer windows, and scaling laws."""

import csv
import json
import re
from pathlib import Path

import pytest
from workspace import TINY, Workspace

SWEEP = (*TINY, "training.max_steps=20", "training.validate_every_steps=20", "callbacks.samples.max_new_tokens=4")


def sweep_folder(workspace: Workspace) -> Path:
    (file,) = (workspace.folder / "outputs" / "multirun").rglob("sweep.json")
    return file.parent


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_extrapolate_agrees_with_evaluate_and_learned_positions_end(workspace: Workspace) -> None:
    workspace.must("train.py", "-m", *SWEEP, "positional_encoding=learned,rotary")
    sweep = sweep_folder(workspace)
    output = workspace.must("scripts/extrapolate.py", str(sweep), "--output", "longer")
    assert re.search(r"learned +1 +\d\.\d{4} +— +—", output)
    rows = read_table(workspace.folder / "longer" / "extrapolation.csv")
    found = {(row["configuration"], row["context_length"]): row for row in rows}
    context_length = int(rows[0]["trained_with"])
    assert {int(length) for _, length in found} == {context_length, 2 * context_length, 4 * context_length}
    assert found["learned", str(2 * context_length)]["val/loss_nats"] == ""
    (rotary,) = sweep.glob("*rotary*")
    for length in (context_length, 4 * context_length):
        evaluated = workspace.must("scripts/evaluate.py", str(rotary), "--context-length", str(length), "--json")
        assert float(found["rotary", str(length)]["val/loss_nats"]) == json.loads(evaluated)["loss_nats"]
    assert (workspace.folder / "longer" / "extrapolation.png").stat().st_size > 5000
    assert "| rotary | 1 |" in (workspace.folder / "longer" / "extrapolation.md").read_text()


def test_a_sweep_of_sizes_has_a_scaling_exponent(workspace: Workspace) -> None:
    workspace.must("train.py", "-m", *SWEEP, "model.d_model=4,8,16")
    sweep = sweep_folder(workspace)
    output = workspace.must("scripts/scaling.py", str(sweep))
    assert re.search(
        r"loss = \S+ \* x\^-?\S+; exponent over seeds -?\d\.\d{4}; means differ from the law by up to \S+%", output
    )
    rows = read_table(sweep / "scaling_parameters.csv")
    assert len(rows) == 3
    assert all(float(row["law"]) == pytest.approx(float(row["val/bits_per_byte"]), rel=0.2) for row in rows)
    assert (sweep / "scaling_parameters.png").stat().st_size > 5000
    refused = workspace.run("scripts/scaling.py", str(sweep), "--along", "tokens")
    assert "sweep what changes them" in refused.error_line()


@pytest.mark.parametrize("lengths", ["", "0", "64,", "many", "-4", "1e3", "9" * 40, "64,many"])
def test_invalid_lengths_are_named(lengths: str, workspace: Workspace) -> None:
    refused = workspace.run("scripts/extrapolate.py", ".", f"--context-lengths={lengths}")
    assert f"--context-lengths={lengths} must be integers above 0" in refused.error_line()
    assert list(workspace.folder.glob("extrapolation*")) == []
