"""What a person sees when the machine fails a run, and that the last checkpoint is whole: real faults, no mocks."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
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
def underway(workspace: Workspace, *args: str) -> Iterator[tuple["subprocess.Popen[str]", Run]]:
    """A training that has saved step 20; it is killed where the test has not ended it."""
    process = workspace.start("train.py", *args)
    assert process.stdout is not None
    try:
        said = next((line for line in process.stdout if line.startswith("step 40: val")), None)
        assert said is not None, "it ended before its second validation"
        yield process, Run(workspace.runs()[-1])
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def last_words(process: "subprocess.Popen[str]") -> str:
    """What it says to its end."""
    assert process.stdout is not None
    said = process.stdout.read()
    process.wait()
    return said


def assert_one_line(process: "subprocess.Popen[str]", said: str, words: str) -> None:
    """It has ended with code 2 and one line of error, which says how to go on."""
    assert process.returncode == 2, said
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(words, error), error
    assert re.search(r"last\.ckpt has step \d+: resume with .*train\.py resume=", error), error


def assert_goes_on(workspace: Workspace, run: Run) -> None:
    """The last checkpoint is whole, nothing half-written lies about, and the run comes to its end."""
    saved = run.checkpoint()["global_step"]
    workspace.must("train.py", f"resume={run.folder}", f"training.max_steps={saved + 20}")
    assert run.metrics["status"] == "finished"
    assert not list(run.folder.rglob("*.tmp"))


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[None]:
    """A file system of its own at `folder`; skips where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root; the limit of the size of files is tried in any case")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return filler


def test_a_full_disk_ends_a_run_at_its_next_checkpoint_and_keeps_the_last(workspace: Workspace) -> None:
    with small_disk(workspace.folder / "outputs", 4 << 20):
        with underway(workspace, *ENDLESS) as (process, run):
            filler = fill(workspace.folder / "outputs")
            said = last_words(process)
        assert_one_line(process, said, r"(best|last)\.ckpt cannot be written \(No space left on device\)")
        assert not list((run.folder / "checkpoints").glob(".*"))
        filler.unlink()
        assert_goes_on(workspace, run)


def test_a_limit_of_the_size_of_files_ends_a_run_in_one_line(workspace: Workspace) -> None:
    with underway(workspace, *ENDLESS) as (process, run):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, 1024))
        said = last_words(process)
    assert_one_line(process, said, r"(best|last)\.ckpt cannot be written \(File too large\)")
    assert_goes_on(workspace, run)


def test_a_run_without_a_place_for_tensorboard_goes_on_with_a_warning(workspace: Workspace) -> None:
    run = workspace.train(*TINY)
    shutil.rmtree(run.folder / "tensorboard")
    (run.folder / "tensorboard").write_text("in the way")
    said = workspace.must("train.py", "resume=latest", "training.max_steps=40")
    assert said.count("warning: no TensorBoard curves from here on") == 1
    assert run.metrics["status"] == "finished"
    assert run.metrics["step"] == 40


def test_a_run_folder_that_is_removed_is_made_again_with_the_next_checkpoint(workspace: Workspace) -> None:
    with underway(workspace, *ENDLESS) as (process, run):
        # Out of the way first: the run writes on, and no folder can be emptied that is being filled.
        shutil.rmtree(run.folder.rename(workspace.folder / "removed"))
        assert process.stdout is not None
        assert any("was removed and is written again" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        said = last_words(process)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert run.metrics["step"] == run.checkpoint()["global_step"]
    assert_goes_on(workspace, run)


def tokens_of(workspace: Workspace) -> Path:
    (file,) = (workspace.folder / "data" / "text_file").rglob("train.bin")
    return file


def cut_short(file: Path) -> None:
    os.truncate(file, 64)


def alter_one_byte(file: Path) -> None:
    with file.open("r+b") as writing:
        first = writing.read(1)
        writing.seek(0)
        writing.write(bytes([first[0] ^ 1]))


def fill_with_ids_that_no_symbol_has(file: Path) -> None:
    with file.open("r+b") as writing:
        writing.write(b"\xff" * file.stat().st_size)


@pytest.mark.parametrize("damage", [cut_short, alter_one_byte, fill_with_ids_that_no_symbol_has])
def test_damaged_tokens_end_a_run_before_its_next_checkpoint(
    damage: Callable[[Path], None], workspace: Workspace
) -> None:
    with underway(workspace, *ENDLESS) as (process, run):
        damage(tokens_of(workspace))
        said = last_words(process)
    assert_one_line(process, said, r"train\.bin was (cut short|altered) while it was in use; prepare the data")
    assert_goes_on(workspace, run)  # with tokens that were prepared again


def test_tokens_that_are_replaced_are_read_on_from_the_old_file(workspace: Workspace) -> None:
    straight = workspace.train(*TINY, TO_THE_END)
    with underway(workspace, *TINY, TO_THE_END, "training.validate_every_steps=20") as (process, run):
        file = tokens_of(workspace)
        other = file.with_name("other")
        other.write_bytes(bytes(file.stat().st_size))
        other.replace(file)
        said = last_words(process)
    assert process.returncode == 0, said
    assert run.equals(straight)


@pytest.mark.parametrize("choice", [(), ("training.on_nan=skip", "training.max_nan_steps=3")], ids=["stop", "skip"])
def test_a_run_that_diverges_says_where_and_saves_nothing_of_it(choice: tuple[str, ...], workspace: Workspace) -> None:
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


def test_a_loss_that_jumps_is_told_and_the_run_goes_on(workspace: Workspace) -> None:
    """By a learning rate that is good at first, and a thousand times too large at the end of its warm-up."""
    jumpy = (
        "schedule=constant",
        "schedule.warmup_steps=30",
        "optimizer.learning_rate=30",
        "training.log_every_steps=1",
    )
    finished = workspace.run("train.py", *TINY, *jumpy, "training.max_steps=40", "logger=none")
    assert finished.code == 0, finished.stderr
    told = r"warning: the training loss jumped to \d+\.\d+ nats at step \d+; the median of the 20 values before is"
    assert re.search(told, finished.stdout + finished.stderr), finished.stdout


def test_two_runs_of_one_name_at_once_prepare_their_data_once_and_end_in_the_same_bits(workspace: Workspace) -> None:
    processes = [workspace.start("train.py", *TINY, "name=twin", "logger=none") for _ in range(2)]
    said = [last_words(process) for process in processes]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum(words.count("Prepared ") for words in said) == 1
    one, two = workspace.runs()
    assert Run(one).equals(Run(two))
    assert not list(workspace.folder.rglob("*.tmp"))


def test_memory_that_does_not_suffice_is_one_line_with_what_to_lower(workspace: Workspace) -> None:
    """By a limit on the process's own memory, which the system answers as it answers a machine that has no more."""
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
    words = r"out of memory on CPU.*batch_size=65536, .*context_length=256; try training\.micro_batch_size=32768"
    assert re.search(words, result.stderr), result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_that_is_going_on_is_not_gone_on_with_by_another_process(workspace: Workspace) -> None:
    with underway(workspace, *ENDLESS) as (_, run):
        refused = workspace.run("train.py", f"resume={run.folder}")
    assert f"another process is training in {run.folder}" in refused.error_line()
    assert_goes_on(workspace, run)


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_last_checkpoint(workspace: Workspace) -> None:
    # A sample that takes minutes: what a person does not wait for.
    slow = ("callbacks.samples.max_new_tokens=1000000", "training.max_steps=40")
    process = workspace.start(
        "train.py", *TINY, *slow, "training.validate_every_steps=40", "training.checkpoint_every_steps=20"
    )
    assert process.stdout is not None
    assert any(line.startswith("step 40: val") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert any(line.startswith("stopping after this step") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    said = last_words(process)
    process.stdout.close()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert re.search(r"^stopped at once by SIGINT; last\.ckpt has step 20: resume with .*train\.py resume=", said, re.M)
    (folder,) = workspace.runs()
    assert Run(folder).checkpoint()["global_step"] == 20


def test_ctrl_c_stops_a_whole_sweep(workspace: Workspace) -> None:
    process = workspace.start("train.py", "-m", *ENDLESS, "seed=1,2,3")
    assert process.stdout is not None
    assert any(line.startswith("step 20: val") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    said = last_words(process)
    process.stdout.close()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    (folder,) = workspace.runs()
    statuses = {job["folder"]: job["status"] for job in json.loads((folder.parent / "sweep.json").read_text())["jobs"]}
    assert statuses == {"seed=1": "interrupted", "seed=2": "missing", "seed=3": "missing"}
    assert said.splitlines()[-1].endswith(f"train.py -m sweep={folder.parent.relative_to(workspace.folder)}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_data_are_prepared_is_one_line_and_leaves_nothing_half_written(
    number: signal.Signals, code: int, workspace: Workspace
) -> None:
    text = workspace.folder / "long.txt"
    text.write_text("the quality of mercy is not strain'd\n" * 1_000_000)
    process = workspace.start("scripts/prepare_data.py", "data=text_file", f"data.path={text}", "tokenizer=char")
    assert process.stdout is not None
    assert any(line.startswith("Preparing") for line in process.stdout)
    process.send_signal(number)
    said = last_words(process)
    process.stdout.close()
    assert process.returncode == code, said
    assert said.splitlines()[-1] == f"stopped by {number.name}"
    assert "Traceback" not in said
    left = {path.name for path in (workspace.folder / "data" / "text_file").rglob("*") if path.is_file()}
    assert left <= {".prepared.lock", "tokenizer.json"}
