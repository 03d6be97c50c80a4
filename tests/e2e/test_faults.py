"""When the machine fails, a run ends with one line of error and an intact checkpoint. Real faults, no mocks."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import full_disk, small_disk, training_tokens
from workspace import TINY, Run, Workspace

ENDLESS = (
    *TINY,
    "training.max_steps=100000",
    "training.validate_every_steps=20",
    "training.checkpoint_every_steps=20",
    "training.log_every_steps=10",
)
TO_THE_END = "training.max_steps=60"


@contextmanager
def running(workspace: Workspace, *args: str) -> Iterator[tuple["subprocess.Popen[str]", Run]]:
    """Start a training and yield it once it has saved step 20; kill it if the test has not ended it."""
    process = workspace.start_until("step 40: val", "train.py", *args)
    try:
        yield process, Run(workspace.runs()[-1])
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def assert_one_line_error(process: "subprocess.Popen[str]", output: str, message: str) -> None:
    """The process has ended with code 2 and one line of error, which says how to resume."""
    assert process.returncode == 2, output
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert re.search(message, error), error
    assert re.search(r"last\.ckpt has step \d+: resume with .*train\.py resume=", error), error


def assert_resumes(workspace: Workspace, run: Run) -> None:
    """The last checkpoint is intact, no partial file is left, and the resumed run finishes."""
    saved = run.checkpoint()["global_step"]
    workspace.must("train.py", f"resume={run.folder}", f"training.max_steps={saved + 20}")
    assert run.metrics["status"] == "finished"
    assert not list(run.folder.rglob("*.tmp"))


def test_a_full_disk_ends_a_run_at_its_next_checkpoint_and_keeps_the_last(workspace: Workspace) -> None:
    outputs = workspace.folder / "outputs"
    with small_disk(outputs, 4 << 20) as is_mounted:
        if not is_mounted:
            pytest.skip("only root can mount a small file system; the next test limits the size of files instead")
        with running(workspace, *ENDLESS) as (process, run), full_disk(outputs):
            output, _ = process.communicate()
            assert not list((run.folder / "checkpoints").glob(".*"))
        assert_one_line_error(process, output, r"(best|last)\.ckpt cannot be written \(No space left on device\)")
        assert_resumes(workspace, run)


def test_a_limit_on_file_size_ends_a_run_in_one_line(workspace: Workspace) -> None:
    with running(workspace, *ENDLESS) as (process, run):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, 1024))
        output, _ = process.communicate()
    assert_one_line_error(process, output, r"(best|last)\.ckpt cannot be written \(File too large\)")
    assert_resumes(workspace, run)


def test_a_run_that_cannot_write_tensorboard_files_continues_with_a_warning(workspace: Workspace) -> None:
    run = workspace.train(*TINY)
    shutil.rmtree(run.folder / "tensorboard")
    (run.folder / "tensorboard").write_text("in the way")
    output = workspace.must("train.py", "resume=latest", "training.max_steps=40")
    assert output.count("warning: logger.tensorboard has failed and logs nothing more: ") == 1
    assert run.metrics["status"] == "finished"
    assert run.metrics["step"] == 40


def test_a_removed_run_folder_is_created_again_with_the_next_checkpoint(workspace: Workspace) -> None:
    with running(workspace, *ENDLESS) as (process, run):
        # Renamed first: the run keeps writing, and a folder that is being filled cannot be emptied.
        shutil.rmtree(run.folder.rename(workspace.folder / "removed"))
        assert process.stdout is not None
        assert any("was removed and is written again" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
    assert process.returncode == 143, output
    assert "Traceback" not in output
    assert run.metrics["step"] == run.checkpoint()["global_step"]
    assert_resumes(workspace, run)


def truncate(file: Path) -> None:
    os.truncate(file, 64)


def flip_one_bit(file: Path) -> None:
    with file.open("r+b") as writing:
        first = writing.read(1)
        writing.seek(0)
        writing.write(bytes([first[0] ^ 1]))


def fill_with_invalid_ids(file: Path) -> None:
    with file.open("r+b") as writing:
        writing.write(b"\xff" * file.stat().st_size)


@pytest.mark.parametrize(
    "damage", [truncate, flip_one_bit, pytest.param(fill_with_invalid_ids, marks=pytest.mark.slow)]
)
def test_damaged_tokens_end_a_run_before_its_next_checkpoint(
    damage: Callable[[Path], None], workspace: Workspace
) -> None:
    with running(workspace, *ENDLESS) as (process, run):
        damage(training_tokens(workspace))
        output, _ = process.communicate()
    assert_one_line_error(process, output, r"train\.bin was (cut short|altered) while it was in use; prepare the data")
    assert_resumes(workspace, run)  # with tokens that are prepared again


def test_a_run_keeps_reading_the_old_file_when_its_tokens_are_replaced(workspace: Workspace) -> None:
    undisturbed = workspace.train(*TINY, TO_THE_END)
    with running(workspace, *TINY, TO_THE_END, "training.validate_every_steps=20") as (process, run):
        file = training_tokens(workspace)
        other = file.with_name("other")
        other.write_bytes(bytes(file.stat().st_size))
        other.replace(file)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert run.equals(undisturbed)


@pytest.mark.parametrize("choice", [(), ("training.on_nan=skip", "training.max_nan_steps=3")], ids=["stop", "skip"])
def test_a_diverged_run_says_where_and_saves_none_of_it(choice: tuple[str, ...], workspace: Workspace) -> None:
    too_fast = (
        "optimizer=sgd",
        "optimizer.learning_rate=1e30",
        "schedule=constant",
        "training.checkpoint_every_steps=1",
    )
    finished = workspace.run("train.py", *TINY, *too_fast, "logger=csv", *choice)
    assert re.search(r"not finite.*learning rate \S+, gradient norm (nan|inf)", finished.error_line())
    (folder,) = workspace.runs()
    assert Run(folder).metrics["status"] == "diverged"
    for checkpoint in folder.rglob("*.ckpt"):
        assert all(weight.isfinite().all() for weight in Run(folder).weights(checkpoint.stem).values())


def test_a_jumping_loss_is_reported_and_the_run_continues(workspace: Workspace) -> None:
    """The learning rate is good at first, and a thousand times too large at the end of the warm-up."""
    jumpy = (
        "schedule=constant",
        "schedule.warmup_steps=30",
        "optimizer.learning_rate=30",
        "training.log_every_steps=1",
    )
    finished = workspace.run("train.py", *TINY, *jumpy, "training.max_steps=40", "logger=none")
    assert finished.code == 0, finished.stderr
    warning = r"warning: the training loss jumped to \d+\.\d+ nats at step \d+; the median of the 20 values before is"
    assert re.search(warning, finished.stdout + finished.stderr), finished.stdout


def test_two_simultaneous_runs_of_one_name_prepare_data_once_and_end_with_the_same_bits(workspace: Workspace) -> None:
    processes = [workspace.start("train.py", *TINY, "name=twin", "logger=none") for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum(output.count("Prepared ") for output in outputs) == 1
    one, two = workspace.runs()
    assert Run(one).equals(Run(two))
    assert not list(workspace.folder.rglob("*.tmp"))


def test_too_little_memory_is_one_line_that_says_what_to_lower(workspace: Workspace) -> None:
    """A limit on the memory of the process has the same effect as a machine that has no more."""
    huge = ("training.batch_size=65536", "model.context_length=256", "model.d_model=256", "training.max_steps=5")
    result = subprocess.run(
        workspace.command("train.py", *TINY, *huge),
        cwd=workspace.folder,
        env=workspace.environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    message = r"out of memory on CPU.*batch_size=65536, .*context_length=256; try training\.micro_batch_size=32768"
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr


def test_a_running_run_cannot_be_resumed_by_another_process(workspace: Workspace) -> None:
    with running(workspace, *ENDLESS) as (_, run):
        refused = workspace.run("train.py", f"resume={run.folder}")
    assert f"another process is training in {run.folder}" in refused.error_line()
    assert_resumes(workspace, run)


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_last_checkpoint(workspace: Workspace) -> None:
    # A sample that takes minutes.
    slow = ("callbacks.samples.max_new_tokens=1000000", "training.max_steps=40")
    steps = ("training.validate_every_steps=40", "training.checkpoint_every_steps=20")
    process = workspace.start_until("step 40: val", "train.py", *TINY, *slow, *steps)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any(line.startswith("stopping after this step") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert re.search(
        r"^stopped at once by SIGINT; last\.ckpt has step 20: resume with .*train\.py resume=", output, re.M
    )
    (folder,) = workspace.runs()
    assert Run(folder).checkpoint()["global_step"] == 20


def test_ctrl_c_stops_a_whole_sweep(workspace: Workspace) -> None:
    process = workspace.start("train.py", "-m", *ENDLESS, "seed=1,2,3")
    workspace.wait_for_log("step 20: val", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    (folder,) = workspace.runs()
    statuses = {job["folder"]: job["status"] for job in json.loads((folder.parent / "sweep.json").read_text())["jobs"]}
    assert statuses == {"seed=1": "interrupted", "seed=2": "missing", "seed=3": "missing"}
    assert output.splitlines()[-1].endswith(f"train.py -m sweep={folder.parent.relative_to(workspace.folder)}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_preparation_is_one_line_and_leaves_no_partial_file(
    number: signal.Signals, code: int, workspace: Workspace
) -> None:
    text = workspace.folder / "long.txt"
    text.write_text("the quality of mercy is not strain'd\n" * 1_000_000)
    arguments = ("data=text_file", f"data.path={text}", "tokenizer=char")
    process = workspace.start_until("Preparing", "scripts/prepare_data.py", *arguments)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == code, output
    assert output.splitlines()[-1] == f"stopped by {number.name}"
    assert "Traceback" not in output
    left = {path.name for path in (workspace.folder / "data" / "text_file").rglob("*") if path.is_file()}
    assert left <= {".prepared.lock", "tokenizer.json"}
