"""The file of a W&B run is read and cut as W&B's own reader sees it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

wandb = pytest.importorskip("wandb")

from folio.runtime.errors import FolioError  # noqa: E402
from folio.training.loggers.wandb_file import RunFile, cut_after  # noqa: E402

STEP = "trainer/global_step"
STEPS = list(range(0, 600, 2))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an offline run that W&B itself wrote: several blocks of 32 KiB, with records across their borders."""
    folder = tmp_path_factory.mktemp("run")
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    run = wandb.init(project="x", dir=str(folder), mode="offline", settings=settings, reinit="create_new")
    for step in STEPS:
        run.log({"loss": 1.0 / (step + 1), STEP: step, "text": "x" * (step % 97)}, commit=True)
    run.finish()
    wandb.teardown()  # waits for W&B's own process, which may write the last block after `finish` has returned
    (file,) = folder.rglob("*.wandb")
    assert file.stat().st_size > 100_000
    return file


def inspected(file: Path) -> list[dict[str, Any]]:
    """Return the history as `wandb leet inspect` reads it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    return [record["history"]["item"] for record in map(json.loads, lines) if record["type"] == "history"]


def copied(file: Path, folder: Path, size: int | None = None) -> Path:
    copy = folder / file.name
    copy.write_bytes(file.read_bytes()[:size])
    return copy


def test_rows_are_read_as_wandb_reads_them(written: Path) -> None:
    rows = RunFile(written, STEP).read_rows()
    assert [row.step for row in rows] == STEPS
    assert [(row.number, row.step) for row in rows] == [(row["_step"], row[STEP]) for row in inspected(written)]


@pytest.mark.parametrize("step", [-1, 0, 1, 300, 597, 598, 10**6])
def test_a_file_is_cut_after_a_step(step: int, written: Path, tmp_path: Path) -> None:
    file = copied(written, tmp_path)
    kept = [number for number in STEPS if number <= step]
    assert cut_after(file, step, STEP) == len(kept)
    assert [row.step for row in RunFile(file, STEP).read_rows()] == kept
    if step == 300:
        assert [row[STEP] for row in inspected(file)] == kept


def test_a_file_that_is_being_written_is_read_as_it_grows(written: Path, tmp_path: Path) -> None:
    """Also if it ends in the middle of a record, or is overwritten with anything."""
    content = written.read_bytes()
    file = copied(written, tmp_path, 0)
    reader, steps = RunFile(file, STEP), []
    for size in [*range(0, len(content), 9_973), len(content)]:
        file.write_bytes(content[:size])
        steps += [row.step for row in reader.read_rows()]
    assert steps == STEPS
    assert reader.n_rows == len(STEPS)


@pytest.mark.parametrize("content", [b"", b":W&B", b"\xff" * 100_000, b"\0" * 100_000])
def test_a_file_that_is_none_of_wandb_has_no_rows(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run-x.wandb"
    file.write_bytes(content)
    assert RunFile(file, STEP).read_rows() == []
    assert cut_after(file, 3, STEP) == 0
    assert file.read_bytes() == content


def test_a_pipe_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run-x.wandb")
    with pytest.raises(FolioError):
        cut_after(tmp_path / "run-x.wandb", 3, STEP)
