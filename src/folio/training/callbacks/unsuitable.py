"""Lightning's callbacks that would do nothing in a run of Folio, or break it, and combinations that would."""

from collections.abc import Mapping

from lightning.pytorch import callbacks as stock
from lightning.pytorch.callbacks import Callback

from folio.config.section import ConfigError

ONLY_BAR = "a run shows its own progress"
FINE_TUNING = "it needs a model with a backbone; init_from=FOLDER fine-tunes all weights of a model"
OWN_LEARNING_RATE = "the schedule sets the learning rate of each step; find one with -m hparams_search=optuna"

UNSUITABLE: dict[type[Callback], str] = {
    stock.ProgressBar: ONLY_BAR,
    stock.BackboneFinetuning: FINE_TUNING,
    stock.BasePredictionWriter: "training predicts nothing; write python scripts/generate.py RUN",
    stock.BatchSizeFinder: "training.batch_size is part of a recipe; scripts/plan.py estimates what fits on a device",
    stock.LearningRateFinder: OWN_LEARNING_RATE,
    stock.GradientAccumulationScheduler: "training.micro_batch_size decides how a step is divided",
    stock.ModelPruning: "checkpoints do not hold its masks, so its run could not be resumed",
    stock.OnExceptionCheckpoint: "a run saves last.ckpt at a signal, and every training.checkpoint_every_steps",
    stock.SpikeDetection: "its state cannot be resumed; a run warns by itself if the training loss jumps",
    stock.StochasticWeightAveraging: "it counts epochs and sets the learning rate; use callbacks=[default,ema]",
    stock.ThroughputMonitor: "it needs a function, which no file can hold; train/tokens_per_s is always logged",
}
"""Why a class and its subclasses are refused, and what does the same."""


def check_suitable(key: str, cls: type[Callback]) -> None:
    """Raises: ConfigError for a class that cannot do in a run what it is for."""
    if cls is stock.BaseFinetuning:  # a subclass may freeze what the user wants
        raise ConfigError(f"{key}: BaseFinetuning does nothing by itself: {FINE_TUNING}; leave it out")
    for unsuitable, reason in UNSUITABLE.items():
        if issubclass(cls, unsuitable):
            raise ConfigError(f"{key}: {cls.__name__} cannot be used, because {reason}; leave it out")


def check_combination(callbacks: Mapping[str, Callback]) -> None:
    """Raises: ConfigError for two callbacks that Lightning cannot keep apart, or that replace each other's weights.

    Args:
        callbacks: the optional callbacks of a run, by the keys of their options.
    """
    seen: dict[str, str] = {}
    for key, callback in callbacks.items():
        averages = isinstance(callback, stock.WeightAveraging)
        name = "average of the weights" if averages else f"{type(callback).__name__} with these arguments"
        state = "WeightAveraging" if averages else callback.state_key
        if state in seen and (averages or _has_state(callback)):
            raise ConfigError(f"{seen[state]} and {key}: a run can have one {name}; leave one out")
        seen[state] = key


def _has_state(callback: Callback) -> bool:
    methods = (type(callback).state_dict, type(callback).on_save_checkpoint)
    return methods != (Callback.state_dict, Callback.on_save_checkpoint)
