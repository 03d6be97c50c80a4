"""A run that was stopped in any way resumes as if it had not been."""

import copy
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from workspace import FAMILIES, TINY, Run, Workspace

from folio.config.migrations import KEYS_OF_OPTIONS, NEW_KEYS
from folio.runs.checkpoints import CALLBACK_KEYS_BEFORE_4, FORMAT
from folio.runs.folders import list_checkpoints

LONG = (
    *TINY,
    "model.dropout=0.1",  # so that a wrong random state is noticed
    "training.max_steps=400",
    "training.micro_batch_size=6",
    "training.validate_every_steps=40",
    "training.checkpoint_every_steps=25",
    "training.log_every_steps=15",
)
CURVES = ("train/loss_nats", "train/accuracy", "train/gradient_norm", "train/learning_rate", "val/loss_nats")


@pytest.fixture(scope="module")
def undisturbed(make_workspace: Callable[[], Workspace]) -> Run:
    """A run that was not stopped."""
    return make_workspace().train(*LONG)


def train_until_signal(workspace: Workspace, number: signal.Signals, *args: str) -> tuple[int, str, Run]:
    """Send a training a signal after its first validation. Returns its exit code, its output and its run."""
    process = workspace.start_until("val loss", "train.py", *args)
    process.send_signal(number)
    output, _ = process.communicate()
    (folder,) = workspace.runs()
    return process.returncode, output, Run(folder)


def assert_same_end(resumed: Run, undisturbed: Run, logger: str = "tensorboard") -> None:
    assert resumed.results == undisturbed.results
    assert resumed.equals(undisturbed)
    assert resumed.config == undisturbed.config
    for tag in CURVES:  # no point twice, none missing
        assert resumed.curve(tag, logger) == undisturbed.curve(tag, logger), tag
    assert resumed.samples == undisturbed.samples


def assert_stopped(output: str, run: Run, workspace: Workspace) -> None:
    """The run saved its last step, with its status, and printed the command to resume."""
    assert "Traceback" not in output
    assert f"train.py resume={run.folder.relative_to(workspace.folder)}\n" in output
    assert run.metrics["status"] == "interrupted"
    stopped_at = run.metrics["step"]
    assert 40 <= stopped_at < 400
    saved = run.checkpoint()
    assert saved["global_step"] == stopped_at
    assert bool(saved["folio"]["val"]) == (stopped_at % 40 == 0), "the validation loss must be of these weights"


def test_a_run_stopped_by_sigterm_saves_its_step_and_says_how_to_resume(workspace: Workspace) -> None:
    code, output, run = train_until_signal(workspace, signal.SIGTERM, *LONG)
    assert code == 143, output
    assert_stopped(output, run, workspace)


def test_the_command_printed_at_ctrl_c_resumes_to_the_bits_of_an_undisturbed_run(
    undisturbed: Run, workspace: Workspace
) -> None:
    code, output, run = train_until_signal(workspace, signal.SIGINT, *LONG)
    assert code == 130, output
    assert_stopped(output, run, workspace)
    command = re.search(r"train\.py (resume=.*)", output)
    assert command is not None, output
    first_part = run.metrics
    workspace.must("train.py", *shlex.split(command[1]))
    assert_same_end(run, undisturbed)
    assert run.metrics["elapsed_s"] > first_part["elapsed_s"] > 0, "the time of both parts"
    assert run.metrics["n_tokens_seen"] > first_part["n_tokens_seen"] > 0
    assert workspace.runs() == [run.folder]


def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_run(undisturbed: Run, workspace: Workspace) -> None:
    """Also where another number of threads is usual: it keeps its own."""
    code, output, run = train_until_signal(workspace, signal.SIGKILL, *LONG)
    assert code == -signal.SIGKILL, output
    assert not (run.folder / "metrics.json").exists()
    resumed = workspace.run("train.py", "resume=latest", "trainer=cpu", OMP_NUM_THREADS="2")
    assert resumed.code == 0, resumed.stderr
    assert_same_end(run, undisturbed)
    assert not list(run.folder.rglob("*.tmp"))


@pytest.mark.parametrize("family", [pytest.param("masked_lm", marks=pytest.mark.slow), "hidden_cache"])
def test_a_killed_run_of_another_family_ends_with_the_bits_of_an_undisturbed_run(
    family: str, make_workspace: Callable[[], Workspace]
) -> None:
    """Its lines, masks and prefixes continue where it stopped."""
    workspace, elsewhere = make_workspace(), make_workspace()
    recipe = (*LONG, *FAMILIES[family], "model.context_length=48", "logger=csv")
    code, output, run = train_until_signal(workspace, signal.SIGKILL, *recipe)
    assert code == -signal.SIGKILL, output
    workspace.must("train.py", "resume=latest")
    assert_same_end(run, elsewhere.train(*recipe), "csv")


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_a_finished_run_can_be_extended_and_keeps_its_curves_in_csv(optimizer: str, workspace: Workspace) -> None:
    kept = "callbacks.checkpoint.keep_every_steps=15"
    recipe = (*TINY, "logger=csv", "model.dropout=0.1", "schedule=constant", f"optimizer={optimizer}", kept)
    run = workspace.train(*recipe, "training.max_steps=20")
    workspace.must("train.py", f"resume={run.folder}", "training.max_steps=40")
    longer = workspace.train(*recipe, "training.max_steps=40")
    assert run.metrics["step"] == 40
    assert run.equals(longer)
    assert run.curve("train/loss_nats", "csv") == longer.curve("train/loss_nats", "csv")
    assert [step for step, _ in run.curve("train/loss_nats", "csv")] == list(range(5, 41, 5))
    for folder in (run.folder, longer.folder):
        assert list_checkpoints(folder) == ["best", "last", "step=15", "step=30"]
    for name in ("step=15", "step=30"):
        assert run.checkpoint(name)["global_step"] == int(name.removeprefix("step="))
        assert all(weight.equal(longer.weights(name)[key]) for key, weight in run.weights(name).items())


def test_resuming_a_finished_run_changes_no_number(workspace: Workspace) -> None:
    run = workspace.train(*TINY)
    before, weights = run.results, run.weights()
    workspace.must("train.py", f"resume={run.folder}")
    assert run.results == before
    assert all(value.equal(weights[key]) for key, value in run.weights().items())


def downgrade_to_format_2(run: Run) -> None:
    """Remove from a run folder everything that later formats added."""
    for file in (run.folder / "checkpoints").glob("*.ckpt"):
        state = torch.load(file, weights_only=True)
        folio = state["folio"]
        folio["format"] = 2
        del folio["version"], folio["gradients"]
        for key in NEW_KEYS:
            folio["model"].pop(key.removeprefix("model."), None)
        folio["config"] = without_later_keys(folio["config"])
        state["callbacks"] = {name: state["callbacks"][key] for name, key in CALLBACK_KEYS_BEFORE_4.items()}
        for key in ("val", "val_step", "recent_losses"):
            del state["callbacks"]["Curves"][key]
        torch.save(state, file)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(without_later_keys(run.config)))


def without_later_keys(config: dict[str, Any]) -> dict[str, Any]:
    for key in NEW_KEYS:
        *path, leaf = key.split(".")
        section = config
        for group in path:
            section = section[group]
        section.pop(leaf, None)
    return config


def test_a_run_of_an_older_folio_can_be_resumed_and_evaluated(make_workspace: Callable[[], Workspace]) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    recipe = (*TINY, "optimizer=muon", "schedule=constant", "logger=csv")
    run = workspace.train(*recipe, "training.max_steps=20")
    downgrade_to_format_2(run)
    measured = workspace.must("scripts/evaluate.py", "latest")
    assert "the same" in measured
    output = workspace.must("train.py", "resume=latest", "training.max_steps=40")
    chosen = {"muon", "text_file", "causal_lm"}
    newer = ", ".join(key for key in NEW_KEYS if key not in KEYS_OF_OPTIONS or chosen & {*KEYS_OF_OPTIONS[key]})
    assert f"is from an older Folio; newer keys take their old defaults: {newer}\n" in output
    undisturbed = elsewhere.train(*recipe, "training.max_steps=40")
    assert run.equals(undisturbed)
    assert run.config == undisturbed.config


def test_a_run_of_a_later_format_is_refused_with_the_folio_that_wrote_it(workspace: Workspace) -> None:
    run = workspace.train(*TINY, "logger=none")
    file = run.folder / "checkpoints" / "last.ckpt"
    state = torch.load(file, weights_only=True)
    state["folio"] |= {"format": FORMAT + 1, "version": "9.1.0"}
    torch.save(state, file)
    refused = workspace.run("train.py", "resume=latest").error_line()
    assert f"last.ckpt has format {FORMAT + 1}, written by Folio 9.1.0; this Folio, " in refused


def test_a_resume_that_trains_nothing_changes_no_file_and_one_that_does_records_what_changed(
    workspace: Workspace,
) -> None:
    run = workspace.train(*TINY)

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}

    before = contents()
    other = ("training.max_steps=60", "trainer.precision=bf16-mixed", "dry_run=true")
    assert "dry_run=true" in workspace.must("train.py", f"resume={run.folder}", *other)
    refused = workspace.run("train.py", f"resume={run.folder}", "training.max_steps=5").error_line()
    assert refused.startswith("error: training.max_steps=5: ")
    assert "has already taken 20 steps" in refused
    assert "already finished" in workspace.must("train.py", f"resume={run.folder}")
    assert contents() == before
    workspace.must("train.py", f"resume={run.folder}", "training.max_steps=22", "training.log_every_steps=2")
    workspace.must("train.py", f"resume={run.folder}", "training.max_steps=24")
    comments = [line for line in (run.folder / "config.yaml").read_text().splitlines() if line.startswith("#")]
    assert comments == [
        "# after step 20: training.max_steps 20 -> 22, training.log_every_steps 5 -> 2",
        "# after step 22: training.max_steps 22 -> 24",
    ]
    assert run.config["training"]["max_steps"] == 24


EDITS = {
    "optimizer.learning_rate": 0.5,
    "seed": 8,
    "training.batch_size": 6,
    "model.dropout": 0.5,
    "schedule.warmup_steps": 1,
    "data.window_order": "shuffled",
    "model.n_layers": 3,
    "model.context_length": 4,
}


def test_a_config_that_was_edited_by_hand_is_compared_with_the_checkpoint(workspace: Workspace) -> None:
    run = workspace.train(*TINY, "logger=none")
    original = run.config
    # All in one file: the first difference is named. Then each of the two that once ended in a traceback.
    for keys in (list(EDITS), ["model.n_layers"], ["model.context_length"]):
        edited = copy.deepcopy(original)
        for key in keys:
            section, _, leaf = key.rpartition(".")
            (edited[section] if section else edited)[leaf] = EDITS[key]
        (run.folder / "config.yaml").write_text(yaml.safe_dump(edited))
        refused = workspace.run("train.py", f"resume={run.folder}", "training.max_steps=30").error_line()
        assert refused.startswith(f"error: {min(keys)}={EDITS[min(keys)]}: "), refused
        assert "a resumed run keeps its experiment" in refused


def test_a_text_that_has_moved_is_found_by_its_new_path_and_no_other_text_is(workspace: Workspace) -> None:
    run = workspace.train(*TINY, "logger=none")
    text = (workspace.folder / "tiny.txt").rename(workspace.folder / "moved.txt")
    lost = workspace.run("train.py", f"resume={run.folder}", "training.max_steps=25").error_line()
    assert "add data.path=" in lost
    assert "add --data-path=" in workspace.run("scripts/evaluate.py", str(run.folder)).error_line()
    assert "the same" in workspace.must("scripts/evaluate.py", str(run.folder), "--data-path", text.name)
    (workspace.folder / "other.txt").write_text(text.read_text() + text.read_text())
    for words in (
        ("scripts/evaluate.py", str(run.folder), "--data-path", "other.txt"),
        ("train.py", f"resume={run.folder}", "training.max_steps=25", "data.path=other.txt"),
    ):
        assert "the text is not the one that the run started with" in workspace.run(*words).error_line()
    workspace.must("train.py", f"resume={run.folder}", "training.max_steps=25", f"data.path={text.name}")
    assert run.metrics["step"] == 25


def test_tensorboards_own_reader_shows_each_point_of_a_killed_and_resumed_run_once(workspace: Workspace) -> None:
    code, output, run = train_until_signal(workspace, signal.SIGKILL, *LONG)
    assert code == -signal.SIGKILL, output
    workspace.must("train.py", "resume=latest")
    reader = EventMultiplexer(purge_orphaned_data=True)  # what the server uses with --load_fast=false
    reader.AddRunsFromDirectory(str(run.folder))
    reader.Reload()
    steps = [event.step for event in reader.Tensors("tensorboard", "train/loss_nats")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 400
