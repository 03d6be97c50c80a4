"""debug=MODE: fit the schedule of any recipe to a run of a few steps. The files of conf/debug do the rest."""

from collections.abc import Callable

from folio.config.run import RunConfig
from folio.config.schedule import ConstantScheduleConfig
from folio.config.section import ConfigError
from folio.optim.schedules import learning_rate


def fit_schedule(config: RunConfig, is_typed: bool, log: Callable[[str], None]) -> RunConfig:
    """Return the config of a debugging mode with a schedule that suits its few steps, and tell `log` what changes.

    A model overfits a batch at the highest learning rate of the recipe, without its long warm-up or its decay, unless
    the schedule `is_typed`. Other modes leave out a warm-up that the run would not survive.
    """
    if config.debug is None:
        return config
    mode, schedule, max_steps = f"debug={config.debug.name}", config.schedule, config.training.max_steps
    if config.debug.one_batch and not is_typed:
        warmup_steps = max_steps // 10
        peak = config.optimizer.learning_rate
        if schedule.scaled_by != "optimizer.learning_rate":
            peak = learning_rate(config, schedule.warmup_steps - 1)
        log(f"{mode}: schedule=constant at the highest learning rate, {peak:.3g}, after {warmup_steps} steps")
        constant = ConstantScheduleConfig(name="constant", warmup_steps=warmup_steps)
        optimizer = config.optimizer.model_copy(update={"learning_rate": peak})
        return config.model_copy(update={"schedule": constant, "optimizer": optimizer})
    try:
        schedule.check(config.optimizer.learning_rate, max_steps)
    except ConfigError:
        log(f"{mode}: schedule.warmup_steps=0 instead of {schedule.warmup_steps}, for a run of {max_steps} steps")
        return config.model_copy(update={"schedule": schedule.model_copy(update={"warmup_steps": 0})})
    return config
