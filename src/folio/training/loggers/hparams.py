"""What TensorBoard's HParams tab shows of a run: what was chosen for it, beside what came of it.

The tab takes its columns from one run of all that it sees, puts those first that are said to differ, and shows five;
the metrics it takes from the last point of the curves of their names. So each run names the same metrics and the same
keys that people vary, and says of those that its sweep varied, or its command line, that they differ.
"""

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from folio.config.run import RunConfig
from folio.runtime.files import remove_unfinished, write_atomically

Value = bool | int | float | str

USUAL = (
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
"""What people vary. All keys of the config would be several dozen columns."""

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
"""Curves whose last point is what metrics.json has. The first five are shown unless somebody asks for more."""

COLUMNS, BEGAN, ENDED = "columns", "began", "ended"
"""Files apart, each with a single thing to say, of which TensorBoard believes the first word that it reads: a run that
goes on takes back what an earlier part of it said."""


@contextmanager
def hparams_session(config: RunConfig, folder: Path, compared: Sequence[str], resumed: bool) -> Iterator[None]:
    """Show the run in the HParams tab from its start, and at its end whether it finished or failed.

    A run that was stopped and can be resumed has not ended.
    """
    if config.logger.name != "tensorboard":
        yield
        return
    event_folder = folder / "tensorboard"
    begin_session(event_folder, config.model_dump(), compared, goes_on=resumed)
    try:
        yield
    except Exception:
        end_session(event_folder, finished=False)
        raise
    end_session(event_folder, finished=True)


def begin_session(folder: Path, config: dict[str, Any], compared: Sequence[str], *, goes_on: bool = False) -> None:
    """Enter a run, before its first step, with the values of its config.

    compared: the keys or groups that the run's command line or its sweep chose. A run that goes on keeps the columns
    that it began with, and may have got other values.
    """
    values = flatten(config)
    infos = HParamsPluginData(session_start_info=SessionStartInfo(start_time_secs=time.time()))
    for key, value in values.items():
        field = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(infos.session_start_info.hparams[key], field, value)
    with suppress(OSError):  # the curves will find the same, and say so
        for old in folder.glob("*.tfevents.*"):
            if old.suffix in (f".{BEGAN}", f".{ENDED}") or (old.suffix == f".{COLUMNS}" and not goes_on):
                old.unlink()
        remove_unfinished(folder)
    _write(folder, BEGAN, metadata.SESSION_START_INFO_TAG, infos)
    if not goes_on:
        _write(folder, COLUMNS, metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=columns(values, compared)))


def end_session(folder: Path, *, finished: bool) -> None:
    """Say how a run ended. One that can go on has not ended: its status stays unknown, as that of a killed one."""
    status = api_pb2.STATUS_SUCCESS if finished else api_pb2.STATUS_FAILURE
    infos = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
    _write(folder, ENDED, metadata.SESSION_END_INFO_TAG, infos)


def columns(values: dict[str, Value], compared: Iterable[str]) -> Any:
    """The Experiment of a run: its columns, of which those that were compared come first."""
    first = dict.fromkeys(key for word in compared if (key := _key(word, values)) is not None)
    types = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment(metric_infos=[{"name": {"tag": tag}} for tag in METRICS])
    for key in dict.fromkeys((*first, *USUAL)):
        kind = types.get(type(values.get(key, 0.0)), api_pb2.DATA_TYPE_FLOAT64)
        experiment.hparam_infos.add(name=key, type=kind, differs=key in first)
    return experiment


def _key(word: str, values: dict[str, Value]) -> str | None:
    """The key that the left side of an override means: `optimizer` is optimizer.name; None where it is no value."""
    candidates = ("name",) if word == "experiment" else (word, f"{word}.name")
    return next((key for key in candidates if key in values), None)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Value]:
    """Nested config to dotted keys with values that TensorBoard can sort; null has none."""
    flat: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _write(folder: Path, what: str, tag: str, data: Any) -> None:
    """Write an event file of one summary, whole or not at all."""
    now = time.time()
    event = Event(wall_time=now)
    event.summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    content = io.BytesIO()
    records = RecordWriter(content)
    for record in (Event(wall_time=now, file_version="brain.Event:2"), event):
        records.write(record.SerializeToString())
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"events.out.tfevents.{int(now):010d}.{what}", content.getvalue())
