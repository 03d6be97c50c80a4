"""Hyperparameters and status of a run for TensorBoard's HParams tab.

The tab takes its columns from one of the runs it finds, shows those first that are marked as different, and five in
all. It takes a metric from the last point of the curve of that name. So each run lists the same metrics and the same
usual keys, and marks as different the keys that its sweep or its command line set.
"""

import io
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from folio.runtime.files import remove_unfinished, write_atomically

Value = bool | int | float | str

USUAL_KEYS = (
    "data.name",
    "tokenizer.name",
    "model.name",
    "model.context_length",
    "model.n_layers",
    "model.n_heads",
    "model.d_model",
    "model.dropout",
    "positional_encoding.name",
    "objective.name",
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "schedule.name",
    "schedule.warmup_steps",
    "training.max_steps",
    "training.batch_size",
    "seed",
)
"""Keys that people vary. The whole config would be several dozen columns."""

METRICS = (
    "val/bits_per_byte",
    "val/loss_nats",
    "val/perplexity",
    "val/accuracy",
    "train/loss_nats",
    "train/bits_per_byte",
    "train/perplexity",
    "train/accuracy",
)
"""Curves whose last point is the value in metrics.json. The first five are shown by default."""

COLUMNS, START, END = "columns", "began", "ended"
"""Suffixes of three event files. TensorBoard believes the first statement that it reads about a run, so each statement
has its own file, which a resumed run can replace."""


def log_start(folder: Path, config: dict[str, Any], compared: Sequence[str], *, resumed: bool = False) -> None:
    """Write the values of a run's plain config, and its columns, before its first step.

    `compared` are the keys or groups that the command line or the sweep set. A resumed run keeps the columns it started
    with, and may have other values.
    """
    values = flatten(config)
    start = HParamsPluginData(session_start_info=SessionStartInfo(start_time_secs=time.time()))
    for key, value in values.items():
        field = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(start.session_start_info.hparams[key], field, value)
    with suppress(OSError):  # the writer of the curves will fail as well, and say so
        for file in folder.glob("*.tfevents.*"):
            if file.suffix in (f".{START}", f".{END}") or (file.suffix == f".{COLUMNS}" and not resumed):
                file.unlink()
        remove_unfinished(folder)
    _write(folder, START, metadata.SESSION_START_INFO_TAG, start)
    if not resumed:
        _write(folder, COLUMNS, metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=columns(values, compared)))


def log_end(folder: Path, *, succeeded: bool) -> None:
    """Write the status of a run that has ended. A killed run, and one that can be resumed, has status unknown."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    end = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
    _write(folder, END, metadata.SESSION_END_INFO_TAG, end)


def columns(values: dict[str, Value], compared: Iterable[str]) -> Any:
    """Return the Experiment message of a run: its metrics, and its columns with the compared ones first."""
    first = dict.fromkeys(key for word in compared if (key := _key(word, values)) is not None)
    types = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment(metric_infos=[{"name": {"tag": tag}} for tag in METRICS])
    for key in dict.fromkeys((*first, *USUAL_KEYS)):
        data_type = types.get(type(values.get(key, 0.0)), api_pb2.DATA_TYPE_FLOAT64)
        experiment.hparam_infos.add(name=key, type=data_type, differs=key in first)
    return experiment


def _key(word: str, values: dict[str, Value]) -> str | None:
    """Return the key that the left side of an override sets: optimizer.name for `optimizer`; None if there is none."""
    candidates = ("name",) if word == "experiment" else (word, f"{word}.name")
    return next((key for key in candidates if key in values), None)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Value]:
    """Turn a nested config into dotted keys with values that TensorBoard can sort; null values are left out."""
    flat: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _write(folder: Path, suffix: str, tag: str, data: Any) -> None:
    """Write an event file with one summary, completely or not at all."""
    now = time.time()
    event = Event(wall_time=now)
    event.summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    content = io.BytesIO()
    records = RecordWriter(content)
    for record in (Event(wall_time=now, file_version="brain.Event:2"), event):
        records.write(record.SerializeToString())
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"events.out.tfevents.{int(now):010d}.{suffix}", content.getvalue())
