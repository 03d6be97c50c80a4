"""The curves of a run are read back as they were logged."""

import csv
import os
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from folio.figures.curves import Curve, read_curves
from folio.runtime.errors import FolioError

SCALARS = {
    "train/loss_nats": {10: 6.0, 20: 5.5},
    "val/loss_nats": {20: 5.75},
    "train/learning_rate": {10: 0.5, 20: 0.25},
}
"""All exact in float32."""


def points(curves: dict[str, Curve]) -> dict[str, dict[int, float]]:
    return {tag: dict(zip(curve.steps, curve.values, strict=True)) for tag, curve in curves.items()}


def test_scalars_are_read_from_tensorboard_files(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for tag, values in SCALARS.items():
            for step, value in values.items():
                writer.add_scalar(tag, value, step)
    assert points(read_curves(tmp_path)) == SCALARS


def test_scalars_are_read_from_the_csv_file_if_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    with (tmp_path / "csv" / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "name", "value"))
        writer.writerows((step, tag, value) for tag, values in SCALARS.items() for step, value in values.items())
    assert points(read_curves(tmp_path)) == SCALARS


@pytest.mark.parametrize("resumed_at", [None, 1, 15, 20, 99])
def test_a_resumed_run_has_the_curves_that_tensorboard_shows(resumed_at: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    with SummaryWriter(str(folder), filename_suffix=".1") as writer:
        for step in (10, 20, 30):
            writer.add_scalar("train/loss_nats", step / 8, step)
        writer.add_image("figure", torch.rand(3, 200, 200), 30)  # larger than an event with scalars
    (first,) = folder.iterdir()
    first.rename(folder / "events.out.tfevents.1.host")  # both may begin in the same second
    with SummaryWriter(str(folder), purge_step=resumed_at) as writer:
        writer.add_scalar("val/loss_nats", 0.5, 40)
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    expected = {tag: {point.step: point.value for point in shown.Scalars(tag)} for tag in shown.Tags()["scalars"]}
    assert points(read_curves(tmp_path)) == {tag: found for tag, found in expected.items() if found}
    assert ("train/loss_nats" in points(read_curves(tmp_path))) is (resumed_at != 1)


def test_the_events_before_a_damaged_one_are_read(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for step in (1, 2, 3):
            writer.add_scalar("train/loss_nats", step / 8, step)
    (file,) = (tmp_path / "tensorboard").iterdir()
    data = bytearray(file.read_bytes())
    data[-50] ^= 1  # in the second event
    file.write_bytes(data)
    assert 0 < len(points(read_curves(tmp_path))["train/loss_nats"]) < 3


def test_the_later_value_of_a_step_counts_and_steps_ascend() -> None:
    assert Curve.of_points([(10, 3.0), (20, 2.0), (30, 1.5), (20, 1.9), (30, 1.4)]) == Curve(
        [10, 20, 30], [3.0, 1.9, 1.4]
    )


def test_a_run_without_curves_is_one_line_of_error(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="has logged no curves; they need a run with logger=tensorboard or logger=csv"):
        read_curves(tmp_path)


def write_events(folder: Path, content: bytes) -> None:
    """Write an event file with one good scalar and then these bytes."""
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        writer.add_scalar("train/loss_nats", 1.0, 1)
    (file,) = (folder / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes() + content)


def record(length: int, data: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + b"\0" * 4 + data


DAMAGED_EVENTS = {
    "a length of 2^64": record(2**64 - 1),
    "a length of 2^40": record(2**40, b"data"),
}


@pytest.mark.parametrize("name", DAMAGED_EVENTS)
def test_an_event_that_claims_more_than_any_has_is_one_line(name: str, tmp_path: Path) -> None:
    write_events(tmp_path, DAMAGED_EVENTS[name])
    with pytest.raises(FolioError, match=r"tfevents.* holds a record of [\d,]+ bytes") as error:
        read_curves(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rest", [b"", record(100, b"cut"), b"\x05\0", b"\0" * 11])
def test_an_event_file_that_was_cut_keeps_what_came_before(rest: bytes, tmp_path: Path) -> None:
    write_events(tmp_path, rest)
    assert points(read_curves(tmp_path)) == {"train/loss_nats": {1: 1.0}}


@pytest.mark.parametrize("step", [-1, -(2**63), 2**62])
def test_a_step_that_no_run_has_is_one_line(step: int, tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        writer.add_scalar("train/loss_nats", 1.0, step)
    with pytest.raises(FolioError, match="holds the step"):
        read_curves(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_an_event_file_that_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    write_events(tmp_path, b"")
    path = tmp_path / "tensorboard" / "events.out.tfevents.1.host"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    with pytest.raises(FolioError, match="not a regular file"):
        read_curves(tmp_path)


CSV_ROWS = {
    "a long field": "1," + "x" * 200_000 + ",1.0",
    "a negative step": "-1,train/loss_nats,1.0",
    "a step of 400 digits": "9" * 400 + ",train/loss_nats,1.0",
    "a step of 5,000 digits": "9" * 5000 + ",train/loss_nats,1.0",
    "too few fields": "1,train/loss_nats",
    "no number": "1,train/loss_nats,one",
    "a null byte": "1,train/loss_nats,1.0\0",
    "not UTF-8": "1,\udcff,1.0",
}


@pytest.mark.parametrize("name", CSV_ROWS)
def test_a_damaged_csv_file_is_one_short_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    text = f"step,name,value\n1,train/loss_nats,2.0\n{CSV_ROWS[name]}\n"
    (tmp_path / "csv" / "metrics.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FolioError, match=r"metrics\.csv (is damaged in line \d|holds the step)") as error:
        read_curves(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes_in_place_of_curves_are_curves_or_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        for folder, file in (("tensorboard", "events.out.tfevents.1.host"), ("csv", "metrics.csv")):
            (Path(name) / folder).mkdir()
            (Path(name) / folder / file).write_bytes(content)
        with suppress(FolioError):
            read_curves(Path(name))


def test_a_csv_file_whose_last_row_was_cut_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text("step,name,value\n1,train/loss_nats,2.0\n2,train/lo")
    assert points(read_curves(tmp_path)) == {"train/loss_nats": {1: 2.0}}
