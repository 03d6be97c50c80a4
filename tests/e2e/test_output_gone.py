"""A run is saved whatever becomes of the place where it prints."""

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from workspace import TINY, Run, Workspace

ENDLESS = (
    *TINY,
    "training.max_steps=100000",
    "training.validate_every_steps=100000",
    "training.checkpoint_every_steps=100000",
)


def start(workspace: Workspace, *args: str) -> "subprocess.Popen[str]":
    """Start a training and return once its steps run. Its output is a pipe that the caller reads."""
    return workspace.start_until("s a step: about", "train.py", *args)


def assert_saved(run: Run, by: signal.Signals) -> None:
    assert run.metrics["status"] == "interrupted"
    assert run.checkpoint()["global_step"] == run.metrics["step"] > 0
    log = (run.folder / "train.log").read_text()
    assert f"stopped by {by.name}" in log
    assert "resume with" in log


def test_ctrl_c_with_the_output_in_a_pipe_whose_reader_dies_of_it_saves_the_run(workspace: Workspace) -> None:
    """`train.py ... 2>&1 | tee log`: tee dies of the same Ctrl-C."""
    process = start(workspace, *ENDLESS)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    (folder,) = workspace.runs()
    assert_saved(Run(folder), signal.SIGINT)
    log = (folder / "train.log").read_text()
    assert log.count("warning: standard output cannot be written (Broken pipe)") == 1


@pytest.mark.skipif(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="the tests run under nohup")
def test_a_dropped_connection_saves_the_run_however_often_it_is_told(workspace: Workspace) -> None:
    with start(workspace, *ENDLESS) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert process.returncode == 128 + signal.SIGHUP
    (folder,) = workspace.runs()
    assert_saved(Run(folder), signal.SIGHUP)


def test_a_run_started_by_nohup_does_not_end_with_its_terminal(workspace: Workspace) -> None:
    command = ["nohup", *workspace.command("train.py", *TINY, "training.max_steps=200")]
    with subprocess.Popen(
        command,
        cwd=workspace.folder,
        env=workspace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("s a step: about" in line for line in process.stdout)
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert process.returncode == 0
    (folder,) = workspace.runs()
    assert Run(folder).metrics["status"] == "finished"


@pytest.mark.parametrize("kind", ["full", "vanished terminal"])
def test_a_run_whose_output_cannot_be_written_finishes_and_its_log_says_so(kind: str, workspace: Workspace) -> None:
    if kind == "full":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        main, output = os.openpty()
    process = subprocess.Popen(
        workspace.command("train.py", *TINY, "training.max_steps=60"),
        cwd=workspace.folder,
        env=workspace.environment,
        stdout=output,
        stderr=output,
        stdin=subprocess.DEVNULL,
    )
    os.close(output)
    if kind != "full":
        os.read(main, 100)
        os.close(main)  # writing to the terminal is now EIO
    assert process.wait() == 0
    (folder,) = workspace.runs()
    assert Run(folder).metrics["status"] == "finished"
    log = (folder / "train.log").read_text()
    assert "warning: standard output cannot be written" in log
    assert "resume " in log


def test_an_encoding_without_a_character_costs_no_run(workspace: Workspace) -> None:
    Path(workspace.folder / "my.txt").write_text("Ein größeres 日本 Wort, und noch eines.\n" * 60, encoding="utf-8")
    run = workspace.run("train.py", *TINY, "data.path=my.txt", "name=a", PYTHONIOENCODING="ascii:strict", COLUMNS="0")
    assert run.code == 0, run.stderr
    assert "run folder" in run.stdout  # COLUMNS=0 empties no line
    assert run.stderr == ""


def test_programs_whose_output_no_one_reads_end_without_a_traceback(finished_run: Run, home: Workspace) -> None:
    generate = ["scripts/generate.py", str(finished_run.folder), "--max-new-tokens", "20000", "--seed", "1"]
    for words, ending in (
        (generate, " | true"),
        (generate, " >&-"),
        (["scripts/plan.py", "model=debug"], " | true"),
        (["scripts/evaluate.py", str(finished_run.folder)], " > /dev/full"),
    ):
        quoted = shlex.join(home.command(*words))
        result = subprocess.run(
            ["bash", "-c", quoted + ending], cwd=home.folder, env=home.environment, capture_output=True, check=False
        )
        assert b"Traceback" not in result.stderr, (words, ending)
        assert b"Exception" not in result.stderr, (words, ending)
