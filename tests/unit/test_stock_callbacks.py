"""Each callback that Lightning has works in a run, or is refused in one line before it begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import callbacks as stock
from lightning.pytorch.callbacks import Callback

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.training.callbacks.monitored import check_metric
from folio.training.callbacks.unsuitable import UNSUITABLE, check_combination, check_suitable
from folio.training.plugins import build_callbacks

WORK: dict[str, dict[str, Any]] = {
    "Callback": {},
    "Checkpoint": {},
    "DeviceStatsMonitor": {},
    "EMAWeightAveraging": {"decay": 0.9},
    "EarlyStopping": {"monitor": "val/loss_nats"},
    "LambdaCallback": {},
    "LearningRateMonitor": {"logging_interval": "step"},
    "ModelCheckpoint": {"monitor": "val/loss_nats", "save_top_k": 2},
    "ModelSummary": {"max_depth": 2},
    "RichModelSummary": {},
    "Timer": {"duration": "00:01:00:00"},
    "WeightAveraging": {},
}
"""Those that work, with arguments."""


def build(load: Callable[..., RunConfig], **options: dict[str, Any]) -> list[Callback]:
    config = load()
    targets = {}
    for name, arguments in options.items():
        cls = arguments.pop("cls", name)
        config.callbacks.options[name] = arguments
        targets[f"callbacks.{name}"] = f"lightning.pytorch.callbacks.{cls}"
    return build_callbacks(config, targets, Path("run"))


@pytest.mark.parametrize("name", sorted(stock.__all__))
def test_every_stock_callback_is_built_or_refused_with_a_remedy(name: str, load: Callable[..., RunConfig]) -> None:
    if name in WORK:
        assert type(build(load, **{name: dict(WORK[name])})[0]).__name__ == name
        return
    with pytest.raises(ConfigError, match="; leave it out") as refused:
        check_suitable("callbacks.mine", getattr(stock, name))
    assert "\n" not in str(refused.value)


def test_a_subclass_of_a_refused_one_is_refused_too() -> None:
    assert stock.TQDMProgressBar not in UNSUITABLE
    with pytest.raises(
        ConfigError, match=r"callbacks\.bar: TQDMProgressBar cannot be used, because a run shows its own"
    ):
        check_suitable("callbacks.bar", stock.TQDMProgressBar)


def test_checkpoints_of_lightning_have_a_folder_of_their_own(load: Callable[..., RunConfig]) -> None:
    (checkpoint,) = build(load, keep_best={"cls": "ModelCheckpoint"})
    assert isinstance(checkpoint, stock.ModelCheckpoint)
    assert Path(str(checkpoint.dirpath)) == Path("run/keep_best").absolute()
    (elsewhere,) = build(load, keep_best={"cls": "ModelCheckpoint", "dirpath": "/tmp/elsewhere"})
    assert isinstance(elsewhere, stock.ModelCheckpoint)
    assert elsewhere.dirpath == "/tmp/elsewhere"


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (stock.Timer("01:00:00:00"), stock.Timer("02:00:00:00"), "one Timer with these arguments"),
        (stock.EMAWeightAveraging(), stock.WeightAveraging(), "one average of the weights"),
        (stock.EarlyStopping("a"), stock.EarlyStopping("b"), None),
        (stock.ModelSummary(), stock.ModelSummary(), None),
    ],
)
def test_two_callbacks_whose_states_lightning_confuses_are_refused(
    first: Callback, second: Callback, problem: str | None
) -> None:
    callbacks = {"callbacks.one": first, "callbacks.two": second}
    if problem is None:
        check_combination(callbacks)
        return
    with pytest.raises(ConfigError, match=rf"one and callbacks.two: a run can have {problem}; leave one out$"):
        check_combination(callbacks)


def test_a_metric_of_another_name_is_refused_with_ours() -> None:
    with pytest.raises(ConfigError, match=r"=val_loss is not a metric of this run; did you mean val/loss_nats\?"):
        check_metric("callbacks.stop.monitor", "val_loss", {"val/loss_nats", "train/loss_nats", "val/accuracy"})
