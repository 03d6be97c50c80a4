"""The typed schema of a run, and the checks that need nothing but the config.

Imports neither torch nor lightning, so that a mistake is answered at once. `folio.cli` turns a Hydra config
into a `RunConfig`; everything below the entry points sees only these plain, frozen values.
"""

import math
import re
import typing
from typing import Annotated, Any, Literal

from pydantic import Field

from folio.models import TransformerConfig
from folio.models.transformer_config import Activation, Conditioning, Family, Init, Norm, NormPosition
from folio.options.callbacks import CallbacksConfig
from folio.options.data import EXAMPLES, DataSources, MixtureConfig, PartConfig
from folio.options.objectives import MaskedLMConfig, Objectives, PrefixLMConfig
from folio.options.optimizers import Optimizers
from folio.options.section import ConfigError as ConfigError
from folio.options.section import Count, CountOrZero, NonNegative, Positive, Section, Text

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""Of a folder, so it cannot lead out of the one that it lies in."""


class PathsConfig(Section):
    data_dir: Text
    """Prepared token files and downloaded assets."""
    output_dir: Text
    """Run folders."""


class TokenizerConfig(Section):
    """Of a tokenizer that leaves nothing to choose."""

    name: Literal["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "char", "byte"]


class WordTokenizerConfig(Section):
    name: Literal["word"]
    max_vocab_size: Annotated[int, Field(ge=4, le=2**31 - 1)] | None
    """How many ids there may be, those of the unknown, of joins and of spaces included; null: one for every word."""


class ModelConfig(Section):
    """What `TransformerConfig` explains and checks; here only the types."""

    name: Name
    family: Family
    vocab_size: int | None
    """Left out, it is the tokenizer's; it may be padded up to the next multiple of 128."""
    context_length: int
    n_layers: int
    n_heads: int
    d_model: int
    d_ff: int | None
    dropout: float
    attention_dropout: float | None
    bias: bool
    tie_weights: bool
    norm_position: NormPosition
    norm: Norm
    activation: Activation
    qk_norm: bool
    init: Init


class PositionalEncodingConfig(Section):
    name: str
    base: float = 10_000.0
    """Base of the wavelengths of encodings that have some."""


class ConstantScheduleConfig(Section):
    name: Literal["constant"]
    warmup_steps: CountOrZero


class CosineScheduleConfig(Section):
    name: Literal["cosine"]
    warmup_steps: CountOrZero
    min_learning_rate: NonNegative | None
    """Where the cosine ends, at training.max_steps; a tenth of optimizer.learning_rate when null."""


class WSDScheduleConfig(Section):
    """Warm-up, stable, decay: constant between the two, so only the last part knows where the run ends."""

    name: Literal["wsd"]
    warmup_steps: CountOrZero
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Of training.max_steps: the last ones, over which the rate falls linearly."""
    min_learning_rate: NonNegative
    """Where the decay ends, at training.max_steps."""


class NoamScheduleConfig(Section):
    """The schedule of the Transformer's first paper, which sets the rate itself: optimizer.learning_rate has no part.

    Source: Vaswani et al. 2017, section 5.3.
    """

    name: Literal["noam"]
    warmup_steps: Count
    scale: Positive
    """Multiplies the published rate."""


class TrainingConfig(Section):
    max_steps: Count
    """Optimizer steps in the whole run."""
    batch_size: Count
    """Sequences in one optimizer step, over all devices and accumulation."""
    micro_batch_size: Count | None
    """Sequences at once on a device; its whole share of the batch when null."""
    gradient_clip_norm: Positive | None
    """Gradients whose global norm is larger are scaled down to it; null: never."""
    validate_every_steps: Count
    log_every_steps: Count
    checkpoint_every_steps: Count
    on_nan: Literal["stop", "skip"]
    """Where gradients are NaN or infinite: stop the run, or leave the update of that step out."""
    max_nan_steps: Count
    """Of on_nan=skip: so many such steps in a row stop the run."""


class TrainerConfig(Section):
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: Count
    """Of each machine: a process for each GPU; on a CPU as many processes as are asked for."""
    num_nodes: Count = 1
    """Machines. More than one are started by torchrun or SLURM."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Of many devices: the whole model on each (ddp), or a share of weights, gradients and moments on each (fsdp)."""
    activation_checkpointing: bool = False
    """Compute each block once more in the backward pass, and keep only what goes into it."""
    precision: Literal["auto", "32-true", "mixed", "bf16-mixed", "16-mixed"]
    """mixed: bfloat16 where the device has it, else float16; auto: mixed on a GPU, 32-true elsewhere."""
    compile: bool
    """torch.compile the model."""
    detect_anomaly: bool
    """Stop where a gradient becomes NaN and name the operation; slow."""

    @property
    def n_processes(self) -> int:
        """Over all machines."""
        return self.devices * self.num_nodes


class LoggerConfig(Section):
    name: Literal["tensorboard", "csv", "none"]


class SearchConfig(Section):
    """A search for the values that serve an objective best, over the trials of one sweep. See `folio.sweeps.search`."""

    name: Literal["optuna"]
    n_trials: Count
    """In all, those that failed included."""
    objective: Literal[
        "val/loss_nats",
        "val/bits_per_byte",
        "val/perplexity",
        "val/accuracy",
        "best/val/loss_nats",
        "train/loss_nats",
        "train/tokens_per_s",
    ]
    """A figure of metrics.json: the most of accuracy and tokens/s, the least of the others."""
    space: dict[str, Text] | None
    """What is searched, in the words of a sweep by key. Keys that are typed go before it."""
    n_startup_trials: CountOrZero
    """Drawn at random before TPE learns from them; as many must have ended before any trial is stopped early."""
    prune: bool
    """Stop a trial whose best validation so far is worse than the median of the others at the same step."""

    @property
    def maximizes(self) -> bool:
        return self.objective in ("val/accuracy", "train/tokens_per_s")


class RunConfig(Section):
    """One run, whole: with the code it repeats the run."""

    sweep: Text | None = Field(default=None, exclude=True)
    """`latest` or the folder of a sweep: run what is missing or failed there. Of the command, not of a run."""
    hparams_search: SearchConfig | None = Field(default=None, exclude=True)
    """Of the command, too."""

    name: Name | None
    """Of the run folder; <data>-<model> when null."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    deterministic: bool
    dry_run: bool
    resume: Text | None
    """`latest` or a run folder: go on there with its own config."""
    init_from: str | None
    """A folder of Hugging Face's GPT-2 to begin with; it decides the size. See `folio.init_from`."""
    paths: PathsConfig
    data: Annotated[DataSources, Field(discriminator="name")]
    tokenizer: Annotated[TokenizerConfig | WordTokenizerConfig, Field(discriminator="name")]
    model: ModelConfig
    conditioning: Conditioning | None
    """Of an encoder-decoder: how the decoder reads the encoder."""
    positional_encoding: PositionalEncodingConfig
    objective: Annotated[Objectives, Field(discriminator="name")]
    optimizer: Annotated[Optimizers, Field(discriminator="name")]
    schedule: Annotated[
        ConstantScheduleConfig | CosineScheduleConfig | WSDScheduleConfig | NoamScheduleConfig,
        Field(discriminator="name"),
    ]
    training: TrainingConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig

    @property
    def run_name(self) -> str:
        return self.name or f"{self.data.name}-{self.model.name}"

    @property
    def sequences_at_once(self) -> int:
        """On a device."""
        return self.training.micro_batch_size or self.training.batch_size // self.trainer.n_processes

    @property
    def accumulation(self) -> int:
        """Micro batches of a device in one optimizer step."""
        return self.training.batch_size // (self.sequences_at_once * self.trainer.n_processes)

    def transformer_config(self, vocab_size: int) -> TransformerConfig:
        """The model's own config. Raises: ConfigError where the numbers do not fit together."""
        shape = self.model.model_dump(exclude={"name", "vocab_size"})
        try:
            return TransformerConfig(
                vocab_size=vocab_size,
                positional_encoding=self.positional_encoding.name,
                positional_base=self.positional_encoding.base,
                conditioning=self.conditioning,
                **shape,
            )
        except ValueError as error:
            raise ConfigError(_in_config_keys(str(error))) from None

    @property
    def prefix_lengths(self) -> tuple[int, int]:
        """The least and the greatest of a prefix LM."""
        assert isinstance(self.objective, PrefixLMConfig)
        longest = self.objective.max_prefix_length
        return self.objective.min_prefix_length, self.model.context_length if longest is None else longest


def _in_config_keys(message: str) -> str:
    """TransformerConfig's message with the keys and the null that a person types."""
    keys = {name: f"model.{name}" for name in ModelConfig.model_fields} | {
        "positional_base": "positional_encoding.base"
    }
    message = message.replace("=None ", "=null ")
    return re.sub(r"(\w+)=", lambda match: f"{keys.get(match[1], match[1])}=", message)


def check_alone(config: RunConfig) -> None:
    """Check what needs only the config: rules between fields. Raises: ConfigError."""
    _check_devices(config)
    _check_schedule(config)
    _check_data_source(config.data)
    config.transformer_config(vocab_size=1 if config.model.vocab_size is None else config.model.vocab_size)
    _check_objective(config)


def _check_data_source(data: DataSources) -> None:
    """Raises: ConfigError where the place of the text is missing, or given in vain."""
    if isinstance(data, MixtureConfig):
        if not data.parts:
            given = "null" if data.parts is None else "{}"
            raise ConfigError(
                f"data.parts={given}: data=mixture needs corpora and their weights; add "
                "data.parts='{tiny_shakespeare: 0.7, my.txt: 0.3}'"
            )
        for name, part in data.parts.items():
            if isinstance(part, PartConfig) and (part.path is None) == (part.name in EXAMPLES):
                rule = "has no effect" if part.path else f"must be {EXAMPLES[part.name][0]}"
                raise ConfigError(f"data.parts.{name}.path={part.path or 'null'} {rule} with name: {part.name}")
    elif data.name in EXAMPLES and data.path is None:
        what, example = EXAMPLES[data.name]
        raise ConfigError(f"data.path=null: data={data.name} needs {what}; add {example}")
    elif data.name not in EXAMPLES and data.path is not None:
        raise ConfigError(f"data.path={data.path} has no effect with data={data.name}; add data=text_file")


def _check_devices(config: RunConfig) -> None:
    """Raises: ConfigError where the batch cannot be cut evenly, or the strategy does not go with the rest."""
    training, trainer = config.training, config.trainer
    batch_size, n_processes = training.batch_size, trainer.n_processes
    if batch_size % n_processes:
        nodes = f" and trainer.num_nodes={trainer.num_nodes}" if trainer.num_nodes > 1 else ""
        raise ConfigError(
            f"training.batch_size={batch_size} must be a multiple of the {n_processes} processes of trainer.devices="
            f"{trainer.devices}{nodes}; try training.batch_size={n_processes * -(-batch_size // n_processes)}"
        )
    own = batch_size // n_processes
    if own % config.sequences_at_once:
        whole = f"training.batch_size={batch_size}"
        if n_processes > 1:
            whole = f"the {own} sequences of each device, training.batch_size={batch_size} over {n_processes},"
        raise ConfigError(
            f"{whole} must be a multiple of training.micro_batch_size={training.micro_batch_size}; try "
            f"{largest_divisor(own, config.sequences_at_once)}"
        )
    if trainer.accelerator == "mps" and n_processes > 1:
        raise ConfigError(f"trainer.devices={trainer.devices}: Apple's GPU is one; use trainer.devices=1")
    if trainer.strategy == "fsdp":
        if trainer.accelerator in ("cpu", "mps"):
            raise ConfigError(
                f"trainer.strategy=fsdp needs GPUs, and trainer.accelerator={trainer.accelerator}; use trainer=ddp_cpu"
            )
        if config.optimizer.name == "muon":
            raise ConfigError(
                "optimizer=muon needs whole matrices, and trainer.strategy=fsdp leaves a share of each on a device; "
                "use trainer=ddp, or optimizer=adamw"
            )


def _check_schedule(config: RunConfig) -> None:
    """Raises: ConfigError where a rate would fall below where it ends, or never come to its peak."""
    schedule, learning_rate, max_steps = config.schedule, config.optimizer.learning_rate, config.training.max_steps
    if not isinstance(schedule, CosineScheduleConfig | WSDScheduleConfig):
        return
    if (schedule.min_learning_rate or 0.0) > learning_rate:
        raise ConfigError(
            f"schedule.min_learning_rate={schedule.min_learning_rate} must not be above "
            f"optimizer.learning_rate={learning_rate}; lower it"
        )
    if isinstance(schedule, WSDScheduleConfig):
        n_before_decay = int(max_steps - schedule.decay_share * max_steps)
        if schedule.warmup_steps > n_before_decay:
            raise ConfigError(
                f"schedule.warmup_steps={schedule.warmup_steps} must be at most the {n_before_decay} steps that "
                f"schedule.decay_share={schedule.decay_share} of training.max_steps={max_steps} leaves; lower one"
            )
    elif schedule.warmup_steps >= max_steps:
        raise ConfigError(
            f"schedule.warmup_steps={schedule.warmup_steps} must be below training.max_steps={max_steps}, "
            "or the cosine never begins; lower it"
        )


def _check_objective(config: RunConfig) -> None:
    objective, family = config.objective, config.model.family
    if objective.family != family:
        fitting = next(kind for kind in typing.get_args(Objectives) if kind.family == family)
        (name,) = typing.get_args(fitting.model_fields["name"].annotation)
        raise ConfigError(
            f"objective={objective.name} trains a model of family {objective.family}, and model={config.model.name} is "
            f"of family {family}; add objective={name}, or choose another model"
        )
    if isinstance(objective, MaskedLMConfig) and objective.mask_share + objective.random_share > 1.0:
        raise ConfigError(
            f"objective.mask_share={objective.mask_share} and objective.random_share={objective.random_share} must "
            "not be more than 1 together; BERT has 0.8 and 0.1"
        )
    if isinstance(objective, PrefixLMConfig):
        shortest, longest = config.prefix_lengths
        if longest > config.model.context_length:
            raise ConfigError(
                f"objective.max_prefix_length={longest} must not be above model.context_length="
                f"{config.model.context_length}, the most that the encoder reads; null makes it that"
            )
        if shortest > longest:
            raise ConfigError(
                f"objective.min_prefix_length={shortest} must not be above the longest prefix, {longest} tokens; "
                "lower it"
            )


def largest_divisor(n: int, at_most: int) -> int:
    """The largest divisor of n that is not above `at_most`; 0 where there is none."""
    small = [divisor for divisor in range(1, math.isqrt(n) + 1) if n % divisor == 0]
    return max((divisor for low in small for divisor in (low, n // low) if divisor <= at_most), default=0)


def settle_vocabulary(config: RunConfig, tokenizer_vocab_size: int) -> RunConfig:
    """The config with model.vocab_size filled in by the tokenizer, which owns it.

    The vocabulary of an encoder has one symbol more, the mask, whose id follows the tokenizer's.

    Raises: ConfigError where a given size cannot hold the tokenizer's symbols or pads them without need.
    """
    given = config.model.vocab_size
    n_symbols = tokenizer_vocab_size + (config.model.family == "encoder")
    padded = -(-n_symbols // 128) * 128
    if given is not None and not n_symbols <= given <= padded:
        if config.init_from is not None:
            raise ConfigError(
                f"tokenizer={config.tokenizer.name} has {n_symbols} symbols, and the model of "
                f"init_from={config.init_from} has {given}; choose the tokenizer that it was trained with, which for "
                "OpenAI's GPT-2 is tokenizer=gpt2"
            )
        mask = ", the mask included" if n_symbols > tokenizer_vocab_size else ""
        raise ConfigError(
            f"model.vocab_size={given} does not match tokenizer={config.tokenizer.name} with its "
            f"{n_symbols} symbols{mask}; leave model.vocab_size out, or pad to {padded} at most"
        )
    model = config.model.model_copy(update={"vocab_size": given or n_symbols})
    return config.model_copy(update={"model": model})


def check_against_data(config: RunConfig, n_train_tokens: int, n_val_tokens: int, of_what: str = "") -> None:
    """Check that a window fits into each split, of one corpus of a mixture where that is said. Raises: ConfigError."""
    if isinstance(config.objective, MaskedLMConfig):
        return  # lines are as long as they are
    context = config.model.context_length
    has_prefix = isinstance(config.objective, PrefixLMConfig)
    needed, window = context + 1, "context_length + 1"
    if has_prefix:
        needed = context + config.prefix_lengths[1]
        window = f"context_length + the longest prefix = {needed}"
    for split, n_tokens in (("train", n_train_tokens), ("val", n_val_tokens)):
        if n_tokens < needed:
            remedy = "lower them" if has_prefix else f"use at most {max(n_tokens - 1, 0)}"
            raise ConfigError(
                f"model.context_length={context} is too long for the {split} split of {n_tokens} tokens{of_what}; "
                f"a window takes {window} of them: {remedy}, or more text"
            )


def plain(config: RunConfig) -> dict[str, Any]:
    """The config as nested dicts, lists, strings and numbers, for YAML, checkpoints and hparams."""
    return config.model_dump(mode="python")
