"""Put the parts of a training together: module, data, callbacks and loggers."""

from dataclasses import asdict
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.prepared import PreparedData
from folio.distributed.context import DistributedContext
from folio.distributed.devices import reset_peak_memory
from folio.distributed.launcher import StopRequested
from folio.distributed.peak_flops import peak_flop_per_s
from folio.models import Model, build_model
from folio.models.formats.fields import FormatError
from folio.models.formats.folder import read_config, read_weights
from folio.models.pretrained import load_pretrained
from folio.objectives.objective import build_objective
from folio.runs.checkpoints import CheckpointMetadata, checkpoint_step
from folio.runs.description import write_description
from folio.runs.rewind import rewind
from folio.runtime.console import console, log, start_log
from folio.runtime.memory import return_freed_blocks
from folio.training.callbacks.checkpoints import CheckpointCallback
from folio.training.callbacks.data_integrity import DataIntegrity
from folio.training.callbacks.figures import FigureLogger
from folio.training.callbacks.learning_rate import LearningRate
from folio.training.callbacks.metrics import MetricLogger
from folio.training.callbacks.progress import DurationEstimate, ProgressBar
from folio.training.callbacks.pruning import PruningCallback
from folio.training.callbacks.samples import SampleWriter
from folio.training.callbacks.stopping import StopOnSignal, ValidateAtEnd
from folio.training.callbacks.throughput import Throughput
from folio.training.context import RunContext
from folio.training.data_module import TokenDataModule
from folio.training.loggers.base import RunLogger
from folio.training.module import LanguageModel
from folio.training.plugins import build_callbacks, build_loggers


def describe_run(context: RunContext, data: PreparedData) -> None:
    """Write the files that describe a run into its folder, and start its log."""
    overrides = list(context.origin.overrides)
    last = context.folder / "checkpoints" / "last.ckpt"
    resumed_at = checkpoint_step(last) if context.resumed else None
    write_description(context.folder, context.config, data.tokenizer, asdict(context.summary), overrides, resumed_at)
    start_log(context.folder / "train.log", only_warnings=context.origin.more_jobs_follow)


class TrainingParts:
    """The module, data, callbacks and loggers of a run, in one of its processes."""

    def __init__(
        self,
        context: RunContext,
        data: PreparedData,
        distributed: DistributedContext,
        stop_requested: StopRequested | None = None,
    ) -> None:
        config, folder, device = context.config, context.folder, context.device
        training = config.training
        self.context, self.data, self.distributed = context, data, distributed
        if device.accelerator == "cpu":
            return_freed_blocks()
        peak = distributed.broadcast(lambda: peak_flop_per_s(device))
        reset_peak_memory(device)
        self.last_checkpoint = folder / "checkpoints" / "last.ckpt" if context.resumed else None
        self.resumed_at = None if self.last_checkpoint is None else checkpoint_step(self.last_checkpoint)
        self.loggers: list[RunLogger] = []
        if distributed.is_global_zero:
            if self.resumed_at is not None:
                rewind(folder, self.resumed_at)
            self.loggers = build_loggers(config, context.plugin_targets, folder, self.resumed_at)
        objective = build_objective(config, data, distributed)
        validation = objective.training_validation()
        self.datamodule = TokenDataModule(objective, validation)
        L.seed_everything(config.seed, verbose=False)
        self.module = LanguageModel(
            model=build_initial_model(context),
            config=config,
            device=device,
            metadata=CheckpointMetadata(config, context.model_config, data.tokenizer),
            validation=validation,
            loss=objective.loss,
            distributed=distributed,
        )
        self.data_integrity = DataIntegrity(data)
        self.optional = build_callbacks(config, context.plugin_targets, folder)
        self.throughput = Throughput(
            distributed,
            flops_per_token=context.summary.flops_per_token,
            peak_flop_per_s=distributed.world_size * peak,
        )
        self.metrics = MetricLogger(self.throughput, training, objective.bits_per_byte_info(data.train))
        self.samples = SampleWriter(config.callbacks.samples, data.tokenizer, config.seed, folder / "samples.md")
        tokens_per_step, n_train = objective.tokens_per_step(), data.train.info.n_tokens
        self.checkpoints = CheckpointCallback(
            folder / "checkpoints",
            training,
            config.callbacks.checkpoint.keep_every_steps,
            config.callbacks.checkpoint.keep_every_epochs,
            epochs_after=lambda step: int(step * tokens_per_step // n_train),
            restore_run_folder=self._restore_folder,
        )
        self.stop_on_signal = StopOnSignal(self.checkpoints, training, distributed, stop_requested)

    def callbacks(self) -> list[Callback]:
        """Return the callbacks in the order of their hooks: those that measure, that save, that may stop the run.

        Optional callbacks come before the checkpoints, which then hold their state of the same step. Throughput comes
        last, because samples, checkpoints and figures do not count as training time.
        """
        config, origin = self.context.config, self.context.origin
        max_steps = config.training.max_steps
        return [
            self.data_integrity,
            LearningRate(),
            self.metrics,
            DurationEstimate(max_steps),
            ProgressBar(console, self.throughput, self.metrics, max_steps, disappears=origin.more_jobs_follow),
            self.samples,
            *self.optional,
            self.checkpoints,
            FigureLogger(self.samples, max_steps),
            ValidateAtEnd(max_steps),
            self.stop_on_signal,
            *([PruningCallback(origin.pruner, self.metrics, max_steps, self.distributed)] if origin.pruner else []),
            self.throughput,
        ]

    def optional_by_name(self) -> dict[str, Callback]:
        """Return the optional callbacks by the names of their options."""
        return dict(zip(self.context.config.callbacks.options, self.optional, strict=True))

    def _restore_folder(self) -> None:
        """Write the description of a run whose folder was removed while it trained: its weights are still here."""
        folder = self.context.folder
        folder.mkdir(parents=True, exist_ok=True)
        describe_run(self.context, self.data)
        log.warning(f"warning: {folder} was removed and is written again; its curves and samples so far are lost")


def check_initial_weights(config: RunConfig) -> None:
    """Raises: ConfigError if a new run could not start with the weights of init_from. Before its folder is created."""
    if config.init_from is None:
        return
    folder = Path(config.init_from)
    try:
        read_weights(folder, *read_config(folder))
    except FormatError as error:
        raise ConfigError(f"init_from={folder}: {error}") from None


def build_initial_model(context: RunContext) -> Model:
    """Return the model that a run starts with: new weights, or those of init_from. Raises: ConfigError.

    A resumed run loads its weights from the checkpoint.
    """
    init_from, model_config = context.config.init_from, context.model_config
    if init_from is None or context.resumed:
        return build_model(model_config)
    try:
        model = load_pretrained(
            Path(init_from),
            context_length=model_config.context_length,
            dropout=model_config.dropout,
            attention_dropout=model_config.attention_dropout,
            feed_forward_dropout=model_config.feed_forward_dropout,
            rotary_scaling=model_config.rotary_scaling,
        )
    except FormatError as error:
        raise ConfigError(f"init_from={init_from}: {error}") from None
    assert model.config == model_config
    return model
