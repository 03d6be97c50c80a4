"""What a killed run wrote after its last checkpoint is removed before the run resumes."""

from pathlib import Path

import pytest

from folio.runs.rewind import rewind, truncate_rows, truncate_samples

ROWS = (
    "step,name,value\n5,train/loss_nats,2.5\n10,train/loss_nats,2.25\n10,val/loss_nats,2.0\n15,train/loss_nats,1.75\n"
)
SAMPLES = "## Step 10\n\n    ROMEO: a\n    ## Step 5\n    \n\n## Step 20\n\n    ROMEO: b\n\n"


@pytest.mark.parametrize(("step", "n_rows"), [(0, 0), (5, 1), (9, 1), (10, 3), (15, 4), (99, 4)])
def test_rows_are_kept_up_to_the_step(step: int, n_rows: int) -> None:
    assert truncate_rows(ROWS, step) == "".join(ROWS.splitlines(keepends=True)[: 1 + n_rows])


@pytest.mark.parametrize("torn", ["1", "15", "15,train/lo", "15,train/loss_nats,1.5", "x,y,1\n", "9" * 5000 + ",y,1\n"])
def test_an_incomplete_row_is_removed(torn: str) -> None:
    assert truncate_rows(ROWS + torn, 99) == ROWS


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (10, 1), (19, 1), (20, 2), (99, 2)])
def test_samples_are_kept_up_to_the_step_whatever_text_they_hold(step: int, kept: int) -> None:
    first = SAMPLES.index("## Step 20")
    assert truncate_samples(SAMPLES, step) == SAMPLES[: [0, first, None][kept]]


def test_a_heading_with_a_number_that_cannot_be_read_ends_the_samples() -> None:
    assert truncate_samples(f"{SAMPLES}## Step {'9' * 5000}\n", 99) == SAMPLES


@pytest.mark.parametrize("torn", ["#", "## Step 3", "## Step 30"])
def test_an_incomplete_heading_is_removed(torn: str) -> None:
    assert truncate_samples(SAMPLES + torn, 99) == SAMPLES


def test_a_folder_keeps_what_belongs_to_its_checkpoint(tmp_path: Path) -> None:
    for place in ("csv", "checkpoints"):
        (tmp_path / place).mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text(ROWS)
    (tmp_path / "samples.md").write_text(SAMPLES)
    (tmp_path / "checkpoints" / ".last.ckpt.0123.tmp").write_text("half")
    (tmp_path / "checkpoints" / "last.ckpt").write_text("whole")
    rewind(tmp_path, 10)
    assert (tmp_path / "csv" / "metrics.csv").read_text() == truncate_rows(ROWS, 10)
    assert (tmp_path / "samples.md").read_text() == truncate_samples(SAMPLES, 10)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_folder_without_curves_or_samples_is_not_changed(tmp_path: Path) -> None:
    rewind(tmp_path, 10)
    assert not list(tmp_path.iterdir())
