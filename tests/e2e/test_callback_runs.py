"""Callbacks of Lightning that end or alter a run, as a user chooses them."""

import re
import signal
from collections.abc import Callable

import pytest
import torch
from workspace import TINY, Run, Workspace, history, inspect_wandb, proxy_that_nobody_may_ask

from folio.generation.generate import generate_text
from folio.models.sampling import SamplingParams
from folio.runs.checkpoints import load_checkpoint

STEPS = ("training.max_steps=60", "training.validate_every_steps=10", "training.log_every_steps=5")


def test_a_run_that_a_callback_ends_is_saved_says_why_and_can_be_resumed(workspace: Workspace) -> None:
    stops = ("callbacks=[default,early_stopping]", "callbacks.early_stopping.min_delta=5")
    run = workspace.train(*TINY, *STEPS, *stops, "callbacks.early_stopping.patience=2")
    assert run.metrics["status"] == "stopped_early"
    assert "did not improve in the last 2 records" in run.metrics["stop_reason"]
    assert run.metrics["step"] == run.checkpoint()["global_step"] == 30
    log = (run.folder / "train.log").read_text()
    (resume,) = re.findall(r"^resume .*train\.py (.*)$", log, re.MULTILINE)
    resumed = workspace.must("train.py", *resume.split())
    assert "callbacks.early_stopping=null" in resume
    assert run.metrics["status"] == "finished", resumed
    assert run.metrics["step"] == 60
    assert "early_stopping" not in run.config["callbacks"]


def test_a_metric_that_callbacks_monitor_is_known_at_every_log_step(workspace: Workspace) -> None:
    stops = ("callbacks.early_stopping.monitor=train/los_nats",)
    line = workspace.run("train.py", *TINY, *STEPS, *stops).stderr.splitlines()[-1]
    assert "did you mean train/loss_nats?" in line
    assert "resume" not in line


def test_all_that_a_validation_shows_comes_from_the_averaged_weights(workspace: Workspace) -> None:
    average = ("callbacks.ema.decay=0.9", "callbacks.gradient_norms.every_steps=10", "logger=[tensorboard,csv]")
    sampling = ("callbacks.samples.max_new_tokens=30", "callbacks.samples.prompt='ROMEO:'")
    run = workspace.train(*TINY, *STEPS, *average, *sampling)
    assert [step for step, _ in run.curve("gradient_norm/blocks.1")] == list(range(10, 61, 10))
    assert [step for step, _ in run.curve("val/loss_nats")] == [step for step, _ in run.curve("val/loss_nats", "csv")]
    saved = run.checkpoint()
    averaged, raw = (saved[key]["model.token_embedding.weight"] for key in ("state_dict", "current_model_state"))
    assert not torch.equal(averaged, raw)
    evaluated = workspace.run("scripts/evaluate.py", str(run.folder), "--checkpoint", "last")
    assert f"{run.metrics['val/loss_nats']:.6f} nats" in evaluated.stdout
    assert "using the averaged weights" in evaluated.stderr
    trained = load_checkpoint(run.folder / "checkpoints" / "last.ckpt", "cpu")
    sample = generate_text(
        trained.model,
        trained.tokenizer,
        "ROMEO:",
        max_new_tokens=30,
        sampling=SamplingParams(temperature=0.8, top_k=40),
        seed=trained.config.seed,
    )
    shown = "\n".join(f"    {line}" for line in "".join(sample).splitlines())
    assert run.samples.rpartition("\n\n    ")[2].strip() == shown.strip()


def test_a_killed_run_with_callbacks_and_loggers_ends_in_the_bits_of_an_undisturbed_one(
    make_workspace: Callable[[], Workspace],
) -> None:
    workspace, elsewhere = make_workspace(), make_workspace()
    words = (
        *TINY,
        "training.max_steps=150",
        "training.validate_every_steps=50",
        "training.checkpoint_every_steps=20",
        "callbacks=[default,ema,early_stopping,gradient_norms,timer]",
        "callbacks.ema.decay=0.9",
        "callbacks.early_stopping.patience=100",
    )
    process = workspace.start_until("val loss", "train.py", *words, "logger=[tensorboard,wandb,mlflow]")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = workspace.runs()
    run = Run(folder)
    with proxy_that_nobody_may_ask() as environment:
        workspace.must("train.py", "resume=latest", "tags=[killed]", **environment)
    undisturbed = elsewhere.train(*words)
    assert run.equals(undisturbed)
    for key in ("current_model_state", "averaging_state"):
        ours, theirs = run.checkpoint()[key], undisturbed.checkpoint()[key]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    first, second = (inspect_wandb(file) for file in run.wandb_files())
    rows = history(first + second)
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    for tag in ("val/loss_nats", "train/loss_nats", "gradient_norm/blocks.0"):
        expected = undisturbed.curve(tag)
        assert run.curve(tag) == expected
        exact = [(step, pytest.approx(value)) for step, value in expected]  # TensorBoard has float32
        assert run.curve(tag, "mlflow") == exact
        assert [(row["trainer/global_step"], row[tag]) for row in rows if tag in row] == exact
    assert run.results == undisturbed.results
    assert {record["run"]["run_id"] for record in first + second if record["type"] == "run"} == {run.ids["wandb"]}
    assert second[-1]["exit"]["exit_code"] == 0
    (started,) = [record["run"] for record in second if record["type"] == "run"]
    assert started["tags"] == ["killed"]
    assert started["config"]["update"]["optimizer"]["name"] == "adamw"
    assert {"samples", "visuals/attention"} <= {key.partition(".")[0] for row in history(second) for key in row}
    (sample_file,) = run.folder.glob(f"wandb/*/files/{history(second)[-3]['samples.path']}")
    assert "ROMEO:" in sample_file.read_text()
    mlflow = run.mlflow()
    assert mlflow.info.status == "FINISHED"
    assert mlflow.data.tags["killed"] == "true"
    assert mlflow.data.params["optimizer.name"] == "adamw"
    assert mlflow.data.metrics["best/val/loss_nats"] == run.metrics["best/val/loss_nats"]
    assert (run.mlflow_artifacts() / "visuals/attention/step=150.png").read_bytes().startswith(b"\x89PNG")
    sample = (run.mlflow_artifacts() / "samples/step=150.md").read_text()
    assert run.samples.endswith(f"## Step 150\n\n{sample}\n\n")


def test_a_run_of_another_checkout_is_used_and_resumed_without_its_option(workspace: Workspace) -> None:
    run: Run = workspace.train(*TINY, "training.max_steps=20")
    config = run.folder / "config.yaml"
    config.write_text(config.read_text() + "  weight_norms:\n    every_steps: 10\n    _target_: os.system\n")
    workspace.must("scripts/generate.py", str(run.folder), "--prompt", "ROMEO:", "--max-new-tokens", "3")
    more = (f"resume={run.folder}", "training.max_steps=40")
    refused = workspace.run("train.py", *more).error_line()
    assert "no conf/callbacks/weight_norms.yaml" in refused
    workspace.must("train.py", *more, "callbacks.weight_norms=null")
    assert run.metrics["step"] == 40
    assert "weight_norms" not in config.read_text().partition("name:")[2]
