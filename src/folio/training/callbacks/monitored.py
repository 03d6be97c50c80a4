"""The metrics that a callback such as EarlyStopping or ModelCheckpoint may monitor."""

from collections.abc import Collection, Mapping

import torch
from lightning.pytorch.callbacks import Callback

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.prepared import PreparedData
from folio.objectives.metrics import compute_metrics
from folio.objectives.objective import build_objective
from folio.runtime.terminal import did_you_mean

OF_STEPS = ("learning_rate", "gradient_norm", "tokens_per_s", "skipped_steps")
"""Metrics of training besides those of the loss."""


def check_monitored(config: RunConfig, callbacks: Mapping[str, Callback], data: PreparedData) -> None:
    """Raises: ConfigError if one of Lightning's callbacks monitors a metric that the run will not have.

    A class of the user's may log more metrics, so none is refused beside one.
    """
    if any(not type(callback).__module__.startswith(("lightning.", "folio.")) for callback in callbacks.values()):
        return
    for key, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str):
            check_metric(f"{key}.monitor", monitor, metric_names(config, data))


def check_metric(key: str, metric: str, names: Collection[str]) -> None:
    """Raises: ConfigError if there is no such metric."""
    if metric not in names:
        known = sorted(names)
        similar = metric if "/" in metric else metric.replace("_", "/", 1)  # val_loss means val/loss_nats
        raise ConfigError(
            f"{key}={metric} is not a metric of this run{did_you_mean(similar, known)}; it has {', '.join(known)}"
        )


def metric_names(config: RunConfig, data: PreparedData) -> set[str]:
    """Return the names of all metrics of a run."""
    objective = build_objective(config, data)
    validation = objective.training_validation()
    any_sums = [torch.ones(3, dtype=torch.float64) for _ in validation.loaders]
    of_loss = compute_metrics(1.0, 1.0, objective.bits_per_byte_info(data.train))
    names = {f"train/{name}" for name in (*of_loss, *OF_STEPS)} | {
        f"val/{name}" for name in validation.metrics(any_sums)
    }
    return names if config.training.on_nan == "skip" else names - {"train/skipped_steps"}
