"""TensorBoard shows the curves, samples, figures and hyperparameters of a run."""

import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from workspace import Run

METRICS = ("loss_nats", "perplexity", "bits_per_byte", "accuracy")


@pytest.fixture(scope="module")
def events(finished_run: Run) -> EventAccumulator:
    return finished_run.events()


def test_every_metric_of_training_and_validation_has_a_curve(events: EventAccumulator) -> None:
    training = {"learning_rate", "gradient_norm", "tokens_per_s", "mfu", *METRICS}
    assert set(events.Tags()["scalars"]) >= {f"train/{name}" for name in training} | {f"val/{name}" for name in METRICS}
    assert "hp_metric" not in events.Tags()["scalars"]


def test_points_are_at_the_configured_steps_and_finite(events: EventAccumulator, finished_run: Run) -> None:
    assert [step for step, _ in finished_run.curve("train/loss_nats")] == [5, 10, 15, 20]
    for tag in events.Tags()["scalars"]:
        assert all(math.isfinite(event.value) for event in events.Scalars(tag)), tag


@pytest.mark.parametrize("name", METRICS)
def test_the_last_validation_equals_the_metrics_file(name: str, finished_run: Run) -> None:
    assert finished_run.curve(f"val/{name}")[-1] == (20, pytest.approx(finished_run.metrics[f"val/{name}"], rel=1e-6))


def test_samples_are_shown_as_text(events: EventAccumulator) -> None:
    (sample,) = events.Tensors("samples/text_summary")
    assert sample.step == 20
    assert b"ROMEO:" in sample.tensor_proto.string_val[0]


def test_figures_show_the_start_and_the_end(events: EventAccumulator) -> None:
    steps = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps == {
        "visuals/schedule": [0],
        "visuals/positional_encoding": [0, 20],  # learned, so training has changed it
        "visuals/attention": [20],
    }
    for tag in steps:
        for image in events.Images(tag):
            assert image.encoded_image_string.startswith(b"\x89PNG")


def hparams_session(events: EventAccumulator) -> HParamsPluginData:
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    return HParamsPluginData.FromString(content)


def test_hparams_contain_the_config_and_name_the_curves_of_the_final_metrics(
    events: EventAccumulator, finished_run: Run
) -> None:
    hparams = hparams_session(events).session_start_info.hparams
    assert hparams["optimizer.learning_rate"].number_value == 3e-3
    assert hparams["model.name"].string_value == "debug"
    assert hparams["seed"].number_value == 1337
    experiment = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    ).experiment
    first = [info.name for info in experiment.hparam_infos if info.differs]
    assert first == ["model.name", "tokenizer.name"], "the typed overrides; trainer has no name"
    shown = {info.name.tag for info in experiment.metric_infos}
    assert {f"val/{name}" for name in METRICS} <= shown
    # The tab reads the value of a metric from the curve with its name.
    assert shown <= set(events.Tags()["scalars"])
