"""Optional callbacks and loggers: one file of conf/ adds any class, and nothing else can name one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import untrained_module
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, Timer

from folio.cli.plugins import find_target, plugin_targets, without_targets
from folio.config.migrations import migrate_config, read_stored_config
from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.config.stored_words import reason_not_to_read
from folio.training.callbacks.early_stopping import EarlyStopping
from folio.training.callbacks.gradient_norms import GradientNorms, part_norms
from folio.training.loggers.guard import GuardedLogger
from folio.training.loggers.lightning import LightningLogger
from folio.training.plugins import build_callbacks, build_loggers, check_plugins, load_class

CONF = Path(__file__).parents[2] / "conf"
Compose = Callable[..., RunConfig]
Refuse = Callable[..., str]


def test_callbacks_are_chosen_as_a_list_and_built_in_its_order(load: Compose) -> None:
    config = load("callbacks=[default,timer,ema,early_stopping,gradient_norms]", "callbacks.ema.decay=0.5")
    assert config.callbacks.options["ema"]["decay"] == 0.5
    callbacks = build_callbacks(config, plugin_targets(config, CONF), Path())
    assert [type(callback) for callback in callbacks] == [Timer, EMAWeightAveraging, EarlyStopping, GradientNorms]


def test_a_dotted_key_alone_chooses_an_option_with_the_other_arguments_of_its_file(load: Compose) -> None:
    config = load("++callbacks.early_stopping.patience=7")
    assert config.callbacks.options == {
        "early_stopping": {"monitor": "val/loss_nats", "mode": "min", "min_delta": 0.0, "patience": 7}
    }


def test_null_leaves_an_option_out_and_is_not_stored(load: Compose) -> None:
    config = load("callbacks=[default,ema]", "callbacks.ema=null", "logger=[tensorboard,csv]", "logger.csv=null")
    assert config.model_dump()["callbacks"].keys() == {"samples", "checkpoint"}
    assert config.model_dump()["logger"] == {"tensorboard": {}}


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "callbacks").glob("*.yaml")))
def test_every_shipped_callback_can_be_built(option: str, load: Compose) -> None:
    config = load(f"callbacks=[{option}]")
    check_plugins(config, plugin_targets(config, CONF))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("++callbacks.ema._target_=os.system",), "callbacks.ema._target_: only a file may name a class"),
        (("++callbacks.x._target_=os.system",), "callbacks.x: this checkout has no conf/callbacks/x.yaml"),
        (("++callbacks.ema.device={_target_:os.system}",), "callbacks.ema.device._target_: an argument cannot name"),
        (("++callbacks.ema=[1]",), "callbacks.ema=[1] must hold the arguments of"),
        (("++callbacks.early_stoping.patience=1",), "did you mean early_stopping?"),
        (("++logger.tensorboard._target_=os.system",), "logger.tensorboard._target_: only a file may name a class"),
    ],
)
def test_only_a_file_of_conf_names_a_class(words: tuple[str, ...], message: str, refuse: Refuse) -> None:
    assert message in refuse(*words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patienc": 1}, "takes no patienc; did you mean patience?"),
        ({"patience": "soon"}, "early_stopping.patience=soon must be a valid integer"),
        ({"mode": "sideways"}, "refuses its arguments"),
    ],
)
def test_arguments_are_checked_by_the_signature(options: dict[str, Any], message: str, load: Compose) -> None:
    config = load("callbacks=early_stopping")
    config.callbacks.options["early_stopping"].update(options)
    with pytest.raises(ConfigError) as error:
        check_plugins(config, plugin_targets(config, CONF))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "target", ["os.system", "json.JSONDecoder", "no_such_package.Callback", "os.nothing", "...", ""]
)
def test_a_class_that_is_no_callback_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"correct `_target_` in conf/callbacks/mine.yaml"):
        load_class("callbacks.mine", target, {}, Callback)


def test_a_file_without_a_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "mine.yaml").write_text("patience: 3\n")
    with pytest.raises(ConfigError, match=r"conf/callbacks/mine.yaml must name a class"):
        find_target(tmp_path, "callbacks", "mine")


def test_a_file_may_repeat_the_name_of_its_option(tmp_path: Path) -> None:
    """As the files of lightning-hydra-template do."""
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "timer.yaml").write_text("timer:\n  _target_: lightning.pytorch.callbacks.Timer\n")
    values = {"callbacks": {"timer": {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:00:01:00"}}}
    assert without_targets(values, tmp_path) == {"callbacks": {"timer": {"duration": "00:00:01:00"}}}


def test_a_logger_of_lightning_writes_into_the_run_folder_and_cannot_end_the_run(tmp_path: Path, load: Compose) -> None:
    config = load("logger=none")
    config.logger["mine"] = {}
    (logger,) = build_loggers(config, {"logger.mine": "lightning.pytorch.loggers.CSVLogger"}, tmp_path, None)
    assert isinstance(logger, GuardedLogger)
    assert isinstance(logger.logger, LightningLogger)
    logger.start_run(config, [])
    logger.log_metrics({"train/loss_nats": 1.5}, 3)
    logger.log_results({"status": "finished", "step": 3, "best/val/loss_nats": 1.25, "val/loss_nats": 1.5})
    logger.end_run("finished")
    (file,) = tmp_path.rglob("metrics.csv")
    assert file.read_text().splitlines() == ["best/val/loss_nats,step,train/loss_nats", ",3,1.5", "1.25,3,"]
    assert "seed: 1337" in file.with_name("hparams.yaml").read_text()
    assert logger.experiment is logger.logger.logger.experiment


def test_a_run_from_before_loggers_were_a_list_is_migrated(load: Compose) -> None:
    values = load().model_dump()
    assert migrate_config(values | {"logger": {"name": "tensorboard"}})["logger"] == {"tensorboard": {}}
    assert migrate_config(values | {"logger": {"name": "none"}})["logger"] == {}


def test_readers_of_a_model_ignore_options_of_training_that_they_do_not_know(load: Compose) -> None:
    values = load().model_dump()
    values["callbacks"] |= {"strange": {"_target_": "os.system"}}
    values["callbacks"]["samples"]["color"] = "red"
    values["trainer"]["turbo"] = True
    values["notes_of_tomorrow"] = "x"
    config, unknown = read_stored_config(values)
    assert set(unknown) == {"callbacks.samples.color", "trainer.turbo", "notes_of_tomorrow"}
    assert config.model == load().model
    values["model"]["turbo"] = True
    with pytest.raises(ValueError, match=r"model.turbo"):
        read_stored_config(values)


@pytest.mark.parametrize("arguments", [{"_target_": "os.system"}, {"kwargs": [{"_target_": "os.system"}]}])
def test_a_stored_config_names_no_class(arguments: dict[str, Any], load: Compose) -> None:
    config = load("callbacks=ema")
    config.callbacks.options["ema"].update(arguments)
    with pytest.raises(ConfigError, match="a run cannot name a class"):
        plugin_targets(config, CONF)


@pytest.mark.parametrize("group", ["callbacks", "logger"])
@pytest.mark.parametrize("name", ["../../outputs/x", "a/b", "..", ""])
def test_a_stored_option_is_no_path(group: str, name: str, load: Compose) -> None:
    values = load().model_dump()
    values[group][name] = {}
    with pytest.raises(ValueError, match="should match pattern"):
        RunConfig.model_validate(values)


def test_training_names_the_option_that_this_checkout_lacks(load: Compose) -> None:
    config = load()
    config.callbacks.options["weight_norms"] = {"every_steps": 10}
    with pytest.raises(ConfigError, match=r"no conf/callbacks/weight_norms.yaml.*callbacks.weight_norms=null"):
        plugin_targets(config, CONF)


@pytest.mark.parametrize(
    ("word", "is_read"),
    [
        ("callbacks=[default,ema]", True),
        ("++callbacks.ema.decay=0.9", True),
        ("callbacks=[default,../../x]", False),
        ("++callbacks.ema._target_=os.system", False),
        ("++callbacks.nope.decay=1", False),
    ],
)
def test_the_words_of_a_sweep_choose_only_options_of_this_checkout(word: str, is_read: bool) -> None:
    assert (reason_not_to_read(word) is None) is is_read


def test_the_norms_of_all_parts_add_up_to_that_of_the_model(compose: Compose) -> None:
    module = untrained_module(compose("model=debug"))
    for weight in module.model.parameters():
        weight.grad = weight.detach().clone()
    norms = dict(part_norms(module.model))
    assert {"blocks.0", "blocks.1"} <= norms.keys()
    total = sum(float(weight.grad.norm()) ** 2 for weight in module.model.parameters() if weight.grad is not None)
    assert sum(float(norm) ** 2 for name, norm in norms.items() if name != "output") == pytest.approx(total, rel=1e-4)
