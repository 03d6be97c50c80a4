"""Run folders from strangers, used by real processes: nothing in them runs, and the error is one line."""

import json
import os
import pickle
import pty
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import joblib
import pytest
import torch
import yaml
from gadget import Gadget
from workspace import ROOT, TINY, TINY_TEXT, Run, Workspace

from folio.runtime.commands import quote_for_hydra
from folio.runtime.streams import COLORS
from folio.runtime.terminal import HIDDEN


@pytest.fixture
def copy(workspace: Workspace, finished_run: Run) -> Path:
    """Return a copy of a run folder, to be tampered with."""
    shutil.copytree(finished_run.folder, workspace.folder / "downloaded")
    return workspace.folder / "downloaded"


COMMANDS = {
    "generate": ("scripts/generate.py", "downloaded"),
    "evaluate": ("scripts/evaluate.py", "downloaded"),
    "export": ("scripts/export.py", "downloaded", "exported"),
    "resume": ("train.py", "resume=downloaded", "training.max_steps=40"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pickle_in_a_checkpoint_runs_nothing(command: str, copy: Path, workspace: Workspace) -> None:
    canary = workspace.folder / "canary"
    for name in ("best", "last"):
        state = torch.load(copy / "checkpoints" / f"{name}.ckpt", weights_only=True)
        torch.save(state | {"hyper_parameters": Gadget(canary)}, copy / "checkpoints" / f"{name}.ckpt")
    line = workspace.run(*COMMANDS[command]).error_line()
    assert ".ckpt is not a checkpoint that can be read" in line
    assert not canary.exists()
    torch.load(copy / "checkpoints" / "best.ckpt", weights_only=False)
    assert canary.exists()


def test_a_tag_in_the_config_of_a_run_runs_nothing(copy: Path, workspace: Workspace) -> None:
    canary = workspace.folder / "canary"
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(f"{text}\nevil: !!python/object/apply:os.system ['touch {canary}']\n")
    assert "config.yaml is not plain YAML" in workspace.run(*COMMANDS["resume"]).error_line()
    workspace.must("scripts/generate.py", "downloaded", "--max-new-tokens", "3")  # which reads the checkpoint's config
    assert not canary.exists()
    yaml.unsafe_load((copy / "config.yaml").read_text())
    assert canary.exists()


def test_a_class_in_the_config_of_a_run_is_never_instantiated(copy: Path, workspace: Workspace) -> None:
    canary = workspace.folder / "canary"
    values = yaml.safe_load((copy / "config.yaml").read_text())
    values["callbacks"]["evil"] = {"_target_": "os.system", "_args_": [f"touch {canary}"]}
    (copy / "config.yaml").write_text(yaml.safe_dump(values))
    assert "no conf/callbacks/evil.yaml" in workspace.run(*COMMANDS["resume"]).error_line()
    assert not canary.exists()


def test_classes_in_the_hyper_parameters_of_a_checkpoint_are_never_instantiated(
    copy: Path, workspace: Workspace
) -> None:
    canary = workspace.folder / "canary"
    state = torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)
    state["hyper_parameters"] = {"_target_": "os.system", "_args_": [f"touch {canary}"], "_class_path": "os.system"}
    torch.save(state, copy / "checkpoints" / "last.ckpt")
    workspace.must(*COMMANDS["resume"])
    assert not canary.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("experiment=../../{0}/x",),
        ("experiment={0}/x",),
        ("--config-dir={0}", "experiment=x"),
        ("--experimental-rerun={0}/p",),
    ],
    ids=" ".join,
)
def test_no_command_line_composes_or_unpickles_a_file_elsewhere(words: tuple[str, ...], workspace: Workspace) -> None:
    canary, folder = workspace.folder / "canary", workspace.folder / "downloaded"
    folder.mkdir()
    (folder / "p").write_bytes(pickle.dumps(Gadget(canary)))
    callback = {"_target_": "joblib.load", "filename": str(folder / "p")}
    (folder / "x.yaml").write_text(f"# @package _global_\n{yaml.safe_dump({'hydra': {'callbacks': {'x': callback}}})}")
    line = workspace.run("train.py", *(word.format(folder) for word in words)).error_line()
    assert words[0].partition("=")[0] in line
    assert not canary.exists()
    joblib.load(folder / "p")
    assert canary.exists()


@pytest.mark.parametrize("name", ["samples.md", "train.log", "checkpoints", "tensorboard", "figures"])
def test_a_link_out_of_a_run_folder_is_never_written_to(name: str, copy: Path, workspace: Workspace) -> None:
    victim = workspace.folder / "victim"
    if (copy / name).is_dir():
        shutil.move(copy / name, victim)
    elif name == "figures":
        victim.mkdir()
    else:
        (copy / name).replace(victim)
    (copy / name).symlink_to(victim)
    before = {path: path.stat().st_mtime_ns for path in [victim, *victim.rglob("*")]}
    typed = ("scripts/figures.py", "downloaded") if name == "figures" else COMMANDS["resume"]
    assert f"downloaded/{name} is a link to {victim}, outside downloaded" in workspace.run(*typed).error_line()
    assert {path: path.stat().st_mtime_ns for path in [victim, *victim.rglob("*")]} == before


def test_nothing_is_written_where_a_run_says(copy: Path, workspace: Workspace) -> None:
    """Only the command line and this checkout's conf/ name folders to write in."""
    anywhere = workspace.folder / "anywhere"
    paths = {"data_dir": str(anywhere / "data"), "output_dir": str(anywhere / "outputs")}
    values = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump(values | {"paths": paths}))
    for name in ("best", "last"):
        state = torch.load(copy / "checkpoints" / f"{name}.ckpt", weights_only=True)
        state["folio"]["config"]["paths"] = paths
        torch.save(state, copy / "checkpoints" / f"{name}.ckpt")
    for script in ("figures", "report", "extrapolate"):
        workspace.must(f"scripts/{script}.py", "downloaded")
    for command in COMMANDS.values():
        workspace.must(*command)
    workspace.must("train.py", "repeat=downloaded", "dry_run=true")
    assert not anywhere.exists()
    assert {path.name for path in workspace.folder.iterdir()} == {
        "data",
        "downloaded",
        "exported",
        "outputs",
        "tiny.txt",
    }


def test_a_job_folder_that_links_out_of_its_sweep_is_not_used(workspace: Workspace) -> None:
    """The folder of a job that starts again is emptied first."""
    victim, downloaded = workspace.folder / "victim", workspace.folder / "downloaded"
    victim.mkdir()
    (victim / "thesis.txt").write_text("years of work")
    downloaded.mkdir()
    words = [*TINY, "seed=1"]
    job = {"folder": "seed=1", "overrides": words, "status": "missing"}
    (downloaded / "sweep.json").write_text(json.dumps({"command": ["train.py", "-m", *words], "jobs": [job]}))
    (downloaded / "seed=1").symlink_to(victim)
    said = workspace.run("train.py", "-m", "sweep=downloaded").error_line()
    assert f"downloaded/seed=1 is a link to {victim}, outside downloaded" in said
    assert [path.name for path in victim.iterdir()] == ["thesis.txt"]


def test_a_sweep_runs_nothing_that_its_words_name(workspace: Workspace) -> None:
    """A value may select any YAML file, whose `hydra` section names a class to create: one that reads a pickle."""
    downloaded, canary = workspace.folder / "outputs" / "downloaded", workspace.folder / "canary"
    downloaded.mkdir(parents=True)
    (downloaded / "x.pkl").write_bytes(pickle.dumps(Gadget(canary)))
    evil = {"hydra": {"callbacks": {"x": {"_target_": "joblib.load", "filename": str(downloaded / "x.pkl")}}}}
    (downloaded / "x.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(evil)}")
    word = f"experiment={os.path.relpath(downloaded / 'x', ROOT / 'conf' / 'experiment')}"
    for command, overrides in (([word, "seed=1,2"], ["seed=1"]), (["seed=1,2"], [word, "seed=1"])):
        job = {"folder": "seed=1", "overrides": overrides, "status": "missing"}
        (downloaded / "sweep.json").write_text(json.dumps({"command": ["train.py", "-m", *command], "jobs": [job]}))
        for typed in (["sweep=outputs/downloaded"], ["-m", "sweep=latest", "dry_run=true"]):
            assert f"{word} names no file of conf/experiment/" in workspace.run("train.py", *typed).error_line()
    assert not canary.exists()
    joblib.load(downloaded / "x.pkl")
    assert canary.exists()


def on_terminal(workspace: Workspace, script: str, *args: str) -> tuple[int, str]:
    """Run a script on a terminal. Returns its exit code and what the terminal received."""
    master, slave = pty.openpty()
    command = workspace.command(script, *args)
    with subprocess.Popen(
        command, cwd=workspace.folder, env=workspace.environment, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        received = b""
        with suppress(OSError):  # Linux reports the end of a terminal as an error
            while chunk := os.read(master, 65536):
                received += chunk
        os.close(master)
    return process.returncode, received.decode()


MOVEMENTS = re.compile(r"\x1b\[(?:2K|1A|\?25[lh])|\r")
"""Escape sequences that draw a progress bar."""

OBEYED = "\x1b]0;owned\x07\x1b[2J\x9b2J\r\u202e"


def test_no_script_sends_a_terminal_what_a_run_holds(copy: Path, workspace: Workspace) -> None:
    evil = workspace.folder / f"outputs/{OBEYED}[red]{{x}}"
    evil.parent.mkdir()
    shutil.move(copy, evil)
    metrics = json.loads((evil / "metrics.json").read_text())
    (evil / "metrics.json").write_text(json.dumps(metrics | {"device": OBEYED, "git_commit": OBEYED}))
    broken = workspace.folder / "outputs" / f"{OBEYED}broken"
    shutil.copytree(evil, broken)
    (broken / "metrics.json").write_text(json.dumps({"status": "failed", "error": OBEYED}))
    state = torch.load(broken / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(state | {"global_step": OBEYED}, broken / "checkpoints" / "last.ckpt")
    torch.save(state | {OBEYED: 1, "state_dict": {OBEYED: 1}}, broken / "checkpoints" / "best.ckpt")
    values = yaml.safe_load((broken / "config.yaml").read_text())
    values["optimizer"] = {OBEYED: OBEYED}
    (broken / "config.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    text = workspace.folder / f"{OBEYED}{{text}}.txt"
    text.write_text(TINY_TEXT)
    for code, script, *words in (
        (0, "scripts/generate.py", str(evil), "--max-new-tokens", "3"),
        (0, "scripts/evaluate.py", str(evil)),
        (0, "scripts/export.py", str(evil), f"exported{OBEYED}"),
        (0, "scripts/figures.py", str(evil), "--prompt", "ROMEO"),
        (0, "scripts/report.py", "outputs"),
        (0, "scripts/extrapolate.py", str(evil)),
        (0, "train.py", f"resume={quote_for_hydra(str(evil))}"),  # which says that it is finished
        (0, "train.py", f"repeat={evil}", f"data.path={quote_for_hydra(str(text))}", "data=text_file", "dry_run=true"),
        (2, "scripts/generate.py", str(broken), "--checkpoint", OBEYED),
        (2, "scripts/evaluate.py", str(broken)),
        (2, "scripts/figures.py", str(broken)),
        (2, "train.py", f"repeat={broken}"),
        (2, "train.py", f"seed={quote_for_hydra(OBEYED)}", f"data.path={OBEYED}"),
        (2, "scripts/plan.py", f"seed={quote_for_hydra(OBEYED)}"),
    ):
        returned, received = on_terminal(workspace, script, *words)
        assert returned == code, f"{script} {words}: {received}"
        rest = COLORS.sub("", received.replace("\r\n", "\n"))
        rest = rest if code else MOVEMENTS.sub("", rest)
        assert not HIDDEN.search(rest.replace("\n", "").replace("\t", "")), f"{script} {words}: {received!r}"
        assert "x1b[2K" not in rest, "a progress bar is shown as text"
    assert not HIDDEN.search(
        "".join(path.read_text() for path in workspace.folder.rglob("train.log")).replace("\n", "")
    )


def test_escape_sequences_in_a_text_reach_a_pipe_but_no_terminal(copy: Path, workspace: Workspace) -> None:
    """The prompt is printed with the text, so its characters must be in the model's vocabulary."""
    path = copy / "checkpoints" / "best.ckpt"
    state = torch.load(path, weights_only=True)
    characters = state["folio"]["tokenizer"]["characters"]
    state["folio"]["tokenizer"]["characters"] = "\n\x1b" + characters[2:]
    torch.save(state, path)
    (copy / "tokenizer.json").unlink()
    typed = ("scripts/generate.py", "downloaded", "--prompt", "A\x1bc", "--max-new-tokens", "1")
    assert "A\x1bc" in workspace.must(*typed)
    _, shown = on_terminal(workspace, *typed)
    assert r"A\x1bc" in shown
    assert "\x1b" not in shown
