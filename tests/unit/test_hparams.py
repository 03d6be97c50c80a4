"""TensorBoard's HParams tab gets the values and columns that users want to compare."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from folio.config.run import RunConfig
from folio.training.loggers.hparams import METRICS, USUAL_KEYS, columns, flatten, log_end, log_start

Compose = Callable[..., RunConfig]

VALUES = {"seed": 1, "model": {"name": "debug", "bias": False, "d_ff": None}, "optimizer": {"betas": [0.9, 0.95]}}


def hparams_in(folder: Path) -> dict[str, HParamsPluginData]:
    """Return what TensorBoard reads in the folder, keyed by the last part of its tag."""
    events = EventAccumulator(str(folder)).Reload()
    tags = events.PluginTagToContent("hparams")
    return {tag.rpartition("/")[2]: HParamsPluginData.FromString(content) for tag, content in tags.items()}


def first_columns(experiment: Any) -> list[str]:
    return [info.name for info in experiment.hparam_infos if info.differs]


def test_values_keep_their_types_and_null_is_left_out() -> None:
    assert flatten(VALUES) == {
        "seed": 1,
        "model.name": "debug",
        "model.bias": False,
        "optimizer.betas": "[0.9, 0.95]",
    }


def test_the_usual_keys_are_keys_of_the_config(compose: Compose) -> None:
    assert set(USUAL_KEYS) <= flatten(compose().model_dump()).keys()


def test_columns_are_the_usual_keys_after_the_compared_ones(compose: Compose) -> None:
    values = flatten(compose("model=debug", "optimizer.eps=1e-6").model_dump())
    experiment = columns(values, ["positional_encoding", "optimizer.eps", "seed", "experiment", "data_dir"])
    assert first_columns(experiment) == ["positional_encoding.name", "optimizer.eps", "seed"]  # name is null here
    assert {info.name for info in experiment.hparam_infos} == {*USUAL_KEYS, "optimizer.eps"}
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert kinds["model.name"] == api_pb2.DATA_TYPE_STRING
    assert kinds["optimizer.learning_rate"] == kinds["seed"] == api_pb2.DATA_TYPE_FLOAT64
    assert [info.name.tag for info in experiment.metric_infos] == list(METRICS)


def test_a_recipe_is_compared_by_its_name(compose: Compose) -> None:
    values = flatten(compose("experiment=quickstart").model_dump())
    assert first_columns(columns(values, ["experiment"])) == ["name"]


def test_a_run_is_shown_from_its_start_and_its_end_is_added_once(tmp_path: Path) -> None:
    log_start(tmp_path, VALUES, ["seed"])
    begun = hparams_in(tmp_path)
    assert begun.keys() == {"experiment", "session_start_info"}
    hparams = begun["session_start_info"].session_start_info.hparams
    assert (hparams["seed"].number_value, hparams["model.name"].string_value) == (1, "debug")
    assert hparams["model.bias"].HasField("bool_value")
    assert begun["session_start_info"].session_start_info.group_name == "", "equal runs are not averaged"
    log_end(tmp_path, succeeded=True)
    ended = hparams_in(tmp_path)
    assert ended["session_end_info"].session_end_info.status == api_pb2.STATUS_SUCCESS
    assert ended["session_start_info"] == begun["session_start_info"]


def test_a_resumed_run_withdraws_its_failure_and_keeps_its_columns(tmp_path: Path) -> None:
    log_start(tmp_path, VALUES, ["seed"])
    log_end(tmp_path, succeeded=False)
    assert hparams_in(tmp_path)["session_end_info"].session_end_info.status == api_pb2.STATUS_FAILURE
    log_start(tmp_path, {**VALUES, "seed": 2}, ["resume"], resumed=True)
    now = hparams_in(tmp_path)
    assert "session_end_info" not in now
    assert now["session_start_info"].session_start_info.hparams["seed"].number_value == 2
    assert first_columns(now["experiment"].experiment) == ["seed"]


def test_a_run_that_starts_again_replaces_everything(tmp_path: Path) -> None:
    log_start(tmp_path, VALUES, ["seed"])
    log_end(tmp_path, succeeded=False)
    log_start(tmp_path, VALUES, ["model"])
    assert first_columns(hparams_in(tmp_path)["experiment"].experiment) == ["model.name"]
    assert "session_end_info" not in hparams_in(tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_trouble_with_the_folder_does_not_end_the_run(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    log_start(tmp_path / place, VALUES, ["seed"])
    log_end(tmp_path / place, succeeded=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
