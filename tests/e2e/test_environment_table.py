"""The environment variables of docs/reliability.md do what the page says, in real processes."""

import re

import pytest
from workspace import ROOT, TINY, Run, Workspace

PAGE = ROOT / "docs" / "reliability.md"
AFTER_TORCH = "once torch is imported"


def settings(refused: bool) -> dict[str, tuple[str, str]]:
    """Return the settings of the table by name, with the page's words about them."""
    rows = re.findall(r"^\| (`[A-Z_]+=.*?) \|.*\| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        name: (value, effect)
        for examples, effect in rows
        for name, value in re.findall(r"`([A-Z_]+)=(.*?)`", examples)
        if effect.startswith("refused") == refused
    }


HARMLESS = {name: value for name, (value, _) in settings(refused=False).items()}
REFUSED = settings(refused=True)


def test_a_run_in_the_oddest_environment_is_the_same_run(workspace: Workspace) -> None:
    """Without PYTHONOPTIMIZE, with which Python would compile torch again; the test of refusals has it."""
    odd = {name: value for name, value in HARMLESS.items() if name != "PYTHONOPTIMIZE"}
    assert len(odd) > 20
    plain = workspace.run("train.py", *TINY, "name=plain", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    changed = workspace.run("train.py", *TINY, "name=odd", **odd)
    assert (plain.code, plain.stderr) == (0, "")
    assert (changed.code, changed.stderr) == (0, "")
    runs = {run.folder.name.rpartition("-")[2]: run for run in map(Run, workspace.runs())}
    assert runs["odd"].equals(runs["plain"])
    assert runs["odd"].metrics["status"] == "finished"


def test_a_mistake_in_the_oddest_environment_is_one_line(workspace: Workspace) -> None:
    mistake = workspace.run("train.py", *TINY, "optimizer.learning_rate=x", **HARMLESS)
    assert mistake.error_line() == "error: optimizer.learning_rate=x must be a valid number\n"


@pytest.mark.parametrize("name", REFUSED)
def test_a_variable_that_ends_every_program_is_refused_in_one_line(name: str, workspace: Workspace) -> None:
    value, effect = REFUSED[name]
    before = sorted(workspace.folder.rglob("*"))
    # Everything before torch takes half a second; a script is enough to meet torch.
    words = ("train.py", *TINY) if AFTER_TORCH not in effect else ("scripts/plan.py", "model=debug")
    finished = workspace.run(*words, **{name: value})
    assert name in finished.error_line()
    assert sorted(workspace.folder.rglob("*")) == before
