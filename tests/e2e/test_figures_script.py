"""Draw the figures of a run as files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from matplotlib.image import imread
from workspace import TINY, Run, Workspace

from folio.config.run import RunConfig
from folio.optim.schedules import learning_rates

FIGURES = "scripts/figures.py"


def names(lines: str) -> list[str]:
    return [Path(line).name for line in lines.splitlines()]


def test_a_finished_run_has_all_figures(home: Workspace, finished_run: Run, tmp_path: Path) -> None:
    printed = home.must(FIGURES, str(finished_run.folder), "--output", str(tmp_path), "--layers", "1", "--heads", "0-1")
    assert names(printed) == ["schedule.png", "curves.png", "positional_encoding.png", "attention.png"]
    for line in printed.splitlines():
        assert imread(line).std() > 0


def test_a_run_before_its_first_step_has_only_a_schedule_and_says_so(
    workspace: Workspace, forbid_imports: Callable[..., dict[str, str]]
) -> None:
    workspace.must("train.py", *TINY, "dry_run=true", "training.max_steps=50")
    (folder,) = workspace.runs()
    finished = workspace.run(FIGURES, "latest", **forbid_imports("torch", "lightning"))
    assert (finished.code, finished.stderr) == (0, "")
    schedule, curves, rest = finished.stdout.splitlines()
    assert workspace.folder / schedule == folder / "figures" / "schedule.png"
    assert (workspace.folder / schedule).is_file()
    assert curves.startswith("no curves.png: ")
    assert rest == f"no positional_encoding.png, no attention.png: {folder.relative_to(workspace.folder)} " + (
        "has no checkpoint yet"
    )


def test_the_drawn_schedule_is_the_one_that_ran(finished_run: Run) -> None:
    config = RunConfig.model_validate(yaml.safe_load((finished_run.folder / "config.yaml").read_text()))
    rates = learning_rates(config)
    assert len(rates) == config.training.max_steps
    for step, rate in finished_run.curve("train/learning_rate"):
        assert rates[step - 1] == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--layers", "7"], "--layers=7: the model has layers 0 to 1"),
        (["--heads", "all"], "--heads=all is not a list of heads; write numbers and ranges, as in 0,5,11 or 0-3"),
        (["--prompt", ""], "prompt='' gives no tokens"),
        (["--prompt", "€"], "has no id for '€'"),
        (["--prefix", "ROMEO:"], "prefix='ROMEO:' is for an encoder-decoder"),
        (["--checkpoint", "step=7"], "has no such checkpoint"),
    ],
)
def test_an_invalid_option_is_refused_before_torch_is_imported(
    args: list[str],
    message: str,
    home: Workspace,
    finished_run: Run,
    tmp_path: Path,
    forbid_imports: Callable[..., dict[str, str]],
) -> None:
    command = (FIGURES, str(finished_run.folder), "--output", str(tmp_path / "pictures"), *args)
    assert message in home.run(*command, **forbid_imports("torch")).error_line()
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("run", ["nowhere", "latest"])
def test_a_missing_run_is_refused_in_one_line(run: str, workspace: Workspace) -> None:
    assert "give" in workspace.run(FIGURES, run).error_line()


def test_figures_without_a_run_need_no_trained_model_and_scaling_not_even_torch(
    workspace: Workspace, finished_run: Run, home: Workspace, forbid_imports: Callable[..., dict[str, str]]
) -> None:
    finished = workspace.run(FIGURES, "--scaling", "--d-head", "64", **forbid_imports("torch", "lightning"))
    assert (finished.code, finished.stderr) == (0, "")
    assert finished.stdout.splitlines()[-1] == "figures/scaling.png"
    assert imread(workspace.folder / "figures" / "scaling.png").std() > 0
    wrong = workspace.run(FIGURES, "--positional-encoding", "rotray", **forbid_imports("torch"))
    assert "did you mean rotary?" in wrong.error_line()


def test_several_prompts_are_a_batch(home: Workspace, finished_run: Run, tmp_path: Path) -> None:
    options = ("--prompt", "ROMEO:", "--prompt", "O", "--output", str(tmp_path))
    printed = home.must(FIGURES, str(finished_run.folder), *options)
    assert names(printed)[-2:] == ["attention_layer_0.png", "attention_layer_1.png"]
