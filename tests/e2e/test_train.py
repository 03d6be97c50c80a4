"""The run folder and output of `python train.py`, and that a run can be repeated exactly."""

import ast
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
import yaml
from workspace import FAMILIES, ROOT, TINY, TINY_TEXT, Run, Workspace

from folio.runs.checkpoints import FORMAT

METRICS = {
    "status",
    "val/loss_nats",
    "val/perplexity",
    "val/bits_per_byte",
    "val/accuracy",
    "train/loss_nats",
    "n_parameters",
    "n_tokens_seen",
    "step",
    "elapsed_s",
    "train/tokens_per_s",
    "mfu",
    "best_checkpoint",
    "seed",
    "device",
    "versions",
    "git_commit",
}

CHOICES = ("optimizer", "schedule")

UNIFORM_NATS = math.log(len(set(TINY_TEXT)))
"""Loss of a model that has learned nothing."""

FOLDER = {
    "config.yaml",
    "overrides.json",
    "metrics.json",
    "preflight.json",
    "train.log",
    "samples.md",
    "tokenizer.json",
    "checkpoints",
    "tensorboard",
}


def sweep(workspace: Workspace, *args: str) -> list[Run]:
    """Do many short runs in one process, because most of their time is imports."""
    workspace.must("train.py", "-m", *TINY, *args)
    return [Run(folder) for folder in workspace.runs()]


@pytest.fixture(scope="module")
def swept(make_workspace: Callable[[], Workspace]) -> dict[tuple[int, str, bool, int | None], Run]:
    """Runs by seed, positional encoding, determinism and micro-batch size."""
    runs = sweep(
        make_workspace(),
        "logger=none",
        "seed=1,2",
        "positional_encoding=learned,sinusoidal",
        "deterministic=true,false",
        "training.micro_batch_size=null,4",
    )
    return {
        (
            run.config["seed"],
            run.config["positional_encoding"]["name"],
            run.config["deterministic"],
            run.config["training"]["micro_batch_size"],
        ): run
        for run in runs
    }


def test_a_run_folder_is_complete(finished_run: Run) -> None:
    assert {path.name for path in finished_run.folder.iterdir()} == FOLDER
    assert {path.name for path in (finished_run.folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert "ROMEO:" in (finished_run.folder / "samples.md").read_text()
    log = (finished_run.folder / "train.log").read_text()
    assert f"val loss {finished_run.metrics['val/loss_nats']:.4f}" in log


def test_metrics_are_complete_finite_and_consistent(finished_run: Run) -> None:
    metrics = finished_run.metrics
    assert metrics.keys() >= METRICS
    numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
    assert all(map(math.isfinite, numbers.values())), numbers
    assert (metrics["status"], metrics["step"], metrics["seed"]) == ("finished", 20, 1337)
    assert metrics["n_tokens_seen"] == 20 * 12 * 8
    assert metrics["val/perplexity"] == math.exp(metrics["val/loss_nats"])
    # All characters of Tiny Shakespeare are single bytes.
    assert metrics["val/bits_per_byte"] == pytest.approx(metrics["val/loss_nats"] / math.log(2), rel=1e-12)
    assert 0 < metrics["val/accuracy"] < 1
    assert metrics["train/tokens_per_s"] > 0
    assert 0 < metrics["mfu"] < 1
    assert metrics["versions"]["torch"] == torch.__version__
    assert (finished_run.folder / metrics["best_checkpoint"]).is_file()


def test_preflight_figures_are_those_of_the_run(finished_run: Run) -> None:
    summarize_run = json.loads((finished_run.folder / "preflight.json").read_text())
    assert summarize_run["n_parameters"] == finished_run.metrics["n_parameters"]
    assert summarize_run["n_parameters"] == sum(
        weight.numel() for name, weight in finished_run.weights().items() if name != "model.output.weight"
    )
    assert (summarize_run["train_tokens"], summarize_run["val_tokens"]) == (1_003_854, 111_540)
    assert summarize_run["tokens_per_step"] * summarize_run["steps"] == finished_run.metrics["n_tokens_seen"]
    assert summarize_run["epochs"] == finished_run.metrics["n_tokens_seen"] / summarize_run["train_tokens"]


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_is_plain_data_that_stands_alone(name: str, finished_run: Run) -> None:
    state = finished_run.checkpoint(name)  # with weights_only=True
    folio = state["folio"]
    assert folio["format"] == FORMAT
    assert folio["config"] == yaml.safe_load((finished_run.folder / "config.yaml").read_text())
    assert folio["tokenizer"]["name"] == "char"
    assert len(folio["tokenizer"]["characters"]) == 65
    assert folio["val"]["loss_nats"] == finished_run.metrics["val/loss_nats"]
    assert state["global_step"] == 20
    assert state["optimizer_states"]


def test_a_checkpoint_holds_no_name_of_a_class_of_ours(finished_run: Run) -> None:
    """A class can then be renamed without breaking the checkpoints of older runs."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src" / "folio").rglob("*.py")]
    classes = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert {"MetricLogger", "LanguageModel"} <= classes
    state = finished_run.checkpoint()
    assert state["callbacks"].keys() == {"metrics", "checkpoints", "throughput"}
    assert not classes & set(words_in(state))


def words_in(value: object) -> Iterator[str]:
    """Yield every key and every text of nested plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from words_in(key)
            yield from words_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from words_in(inner)


def test_the_config_file_alone_repeats_the_run(finished_run: Run, workspace: Workspace) -> None:
    (workspace.folder / "stored").mkdir()
    shutil.copy(finished_run.folder / "config.yaml", workspace.folder / "stored")
    again = workspace.train("repeat=stored")
    assert again.equals(finished_run)
    assert again.metrics["val/loss_nats"] == finished_run.metrics["val/loss_nats"]
    first, second = (yaml.safe_load((run.folder / "config.yaml").read_text()) for run in (finished_run, again))
    assert first == second
    # The processes of joblib compose the config themselves.
    workspace.must("train.py", "-m", "repeat=stored", "seed=2,3", "hydra/launcher=joblib", "optimizer.eps=1e-7")
    configs = [Run(folder).config for folder in workspace.runs() if folder != again.folder]
    changed = [first | {"seed": seed, "optimizer": first["optimizer"] | {"eps": 1e-7}} for seed in (2, 3)]
    assert sorted(configs, key=lambda config: config["seed"]) == changed


def test_every_job_of_a_sweep_has_a_folder_of_its_own(swept: dict[tuple[Any, ...], Run]) -> None:
    assert swept.keys() == set(product((1, 2), ("learned", "sinusoidal"), (True, False), (None, 4)))
    assert len({run.folder for run in swept.values()}) == 16
    assert all(run.metrics["status"] == "finished" for run in swept.values())


def test_one_seed_gives_the_same_bits_in_another_process_in_a_sweep_and_deterministically(
    swept: dict[tuple[Any, ...], Run], workspace: Workspace
) -> None:
    alone = workspace.train(*TINY, "logger=none", "seed=2")
    assert swept[2, "learned", False, None].equals(alone)
    assert swept[2, "learned", True, None].equals(alone)
    assert swept[2, "learned", False, None].metrics["val/loss_nats"] == alone.metrics["val/loss_nats"]


def test_another_seed_gives_other_weights(swept: dict[tuple[Any, ...], Run]) -> None:
    assert not swept[1, "learned", False, None].equals(swept[2, "learned", False, None])


@pytest.mark.parametrize("encoding", ["learned", "sinusoidal"])
def test_accumulation_takes_the_steps_of_the_whole_batch(encoding: str, swept: dict[tuple[Any, ...], Run]) -> None:
    whole, parts = swept[1, encoding, False, None], swept[1, encoding, False, 4]
    for key in ("step", "n_tokens_seen"):
        assert parts.metrics[key] == whole.metrics[key]
    for key in ("val/loss_nats", "train/loss_nats"):
        assert parts.metrics[key] == pytest.approx(whole.metrics[key], rel=1e-5)


def test_every_optimizer_trains_with_every_schedule(workspace: Workspace) -> None:
    groups = {group: sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")) for group in CHOICES}
    runs = sweep(workspace, "logger=none", *(f"{group}={','.join(options)}" for group, options in groups.items()))
    chosen = {tuple(run.config[group]["name"] for group in groups) for run in runs}
    assert chosen == set(product(*groups.values()))
    for run in runs:
        assert run.metrics["status"] == "finished"
        assert run.metrics["val/loss_nats"] < UNIFORM_NATS


def test_runs_started_at_once_share_no_folder_and_dry_ones_stop_after_the_preflight(workspace: Workspace) -> None:
    processes = [workspace.start("train.py", *TINY, "dry_run=true") for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("Prepared" in output for output in outputs) == 1
    folders = workspace.runs()
    assert len(folders) == 2
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {
            "config.yaml",
            "overrides.json",
            "preflight.json",
            "tokenizer.json",
        }


def test_a_pipe_gets_lines_without_control_characters(finished_output: str) -> None:
    assert not re.findall(r"[^\n\x20-\U0010ffff]", finished_output)
    assert re.search(
        r"^step 20/20: loss \d\.\d{3}, [\d,]+ tokens/s, MFU [\d.e-]+, 0 s left$", finished_output, re.MULTILINE
    )


def test_a_terminal_gets_one_bar_with_loss_and_speed_also_after_ctrl_c(workspace: Workspace) -> None:
    controller, terminal = pty.openpty()
    command = workspace.command("train.py", *TINY, "training.max_steps=100000", "training.validate_every_steps=5")
    process = subprocess.Popen(
        command, cwd=workspace.folder, env=workspace.environment, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown, stopped = "", False
    while text := read_terminal(controller):
        shown += text
        assert stopped or len(shown) < 200_000, "the bar does not show what is waited for"
        if not stopped and re.search(r"/100000\S* loss", shown):
            stopped = True
            process.send_signal(signal.SIGINT)
    os.close(controller)
    assert process.wait() == 130
    assert re.search(r"━.*/100000.*loss \d\.\d{3}, [\d,]+ tokens/s", shown), shown
    assert "\\x1b" not in shown  # an escape sequence that is shown as text
    # Each time the line of the bar is left, it is erased first, or it is the end of the run.
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line.rpartition("\x1b[2K")[2]) for line in shown.split("\r\n")]
    assert sum("/100000" in line and "loss" in line for line in lines) == 1, lines
    assert any(line.startswith("stopping after this step") for line in lines)


def read_terminal(controller: int) -> str:
    """Read the next piece of output; empty at the end, which Linux reports as an error."""
    try:
        return os.read(controller, 4096).decode(errors="replace")
    except OSError:
        return ""


def test_the_output_ends_with_the_results_and_the_next_commands(finished_output: str, finished_run: Run) -> None:
    metrics = finished_run.metrics
    for words in (
        f"validation loss  {metrics['val/loss_nats']:.6f} nats",
        f"perplexity       {metrics['val/perplexity']:.2f}",
        f"bits per byte    {metrics['val/bits_per_byte']:.4f}",
        f"accuracy         {metrics['val/accuracy']:.4f}",
        "ROMEO:",
        "scripts/board.py --logdir outputs",
    ):
        assert words in finished_output
    folder = finished_run.folder.relative_to(finished_run.folder.parents[2])
    for command in ("figures.py ", "generate.py ", "evaluate.py ", "train.py resume="):
        assert f"{command}{folder}" in finished_output


def test_a_text_without_the_letters_of_the_sample_prompt_still_trains(workspace: Workspace) -> None:
    (workspace.folder / "tiny.txt").write_text("über allen gipfeln ist ruh, in allen wipfeln spürest du " * 40)
    run = workspace.train(*TINY)
    assert run.metrics["status"] == "finished"
    assert "## Step 20" in (run.folder / "samples.md").read_text()
    prompt = run.config["callbacks"]["samples"]["prompt"]
    assert prompt != "ROMEO:"
    assert f"    {prompt}" in run.samples
    workspace.must("scripts/generate.py", str(run.folder), "--max-new-tokens", "5")  # the text has no new line
    refused = workspace.run("train.py", *TINY, "callbacks.samples.prompt=ROMEO:").error_line()
    assert refused.startswith("error: callbacks.samples.prompt: ")


@pytest.mark.parametrize("family", ["masked_lm", "cross_attention"])
def test_a_default_sample_prompt_that_is_too_long_is_shortened_and_a_dry_run_knows(
    family: str, workspace: Workspace
) -> None:
    chosen = [word for word in FAMILIES[family] if not word.startswith("callbacks.")]
    words = (*TINY, *chosen, "model.context_length=4")
    workspace.must("train.py", *words, "dry_run=true")
    typed = workspace.run("train.py", *words, "callbacks.samples.prompt='ROMEO: [MASK]'", "dry_run=true").error_line()
    assert typed.startswith("error: callbacks.samples.prompt: ")
    assert len(workspace.runs()) == 1
