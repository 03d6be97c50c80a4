"""TODO folio.config.checks."""

import math
import typing

from folio.config.data import EXAMPLES, DataSources, MixtureConfig, PartConfig
from folio.config.objective import MaskedLMConfig, Objectives, PrefixLMConfig
from folio.config.run import RunConfig
from folio.config.section import ConfigError


def check_config(config: RunConfig) -> None:
    """Check what needs only the config: rules between fields. Raises: ConfigError."""
    _check_devices(config)
    config.schedule.check(config.optimizer.learning_rate, config.training.max_steps)
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
    if own % config.micro_batch_size:
        whole = f"training.batch_size={batch_size}"
        if n_processes > 1:
            whole = f"the {own} sequences of each device, training.batch_size={batch_size} over {n_processes},"
        raise ConfigError(
            f"{whole} must be a multiple of training.micro_batch_size={training.micro_batch_size}; try "
            f"{largest_divisor(own, config.micro_batch_size)}"
        )
    if trainer.accelerator == "mps" and n_processes > 1:
        raise ConfigError(f"trainer.devices={trainer.devices}: there is one Apple GPU; use trainer.devices=1")
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


def _check_objective(config: RunConfig) -> None:
    objective, family = config.objective, config.model.family
    if objective.family != family:
        fitting = next(kind for kind in typing.get_args(Objectives) if kind.family == family)
        (name,) = typing.get_args(fitting.model_fields["name"].annotation)
        raise ConfigError(
            f"objective={objective.name} trains a model of family {objective.family}, and model={config.model.name} is "
            f"of family {family}; add objective={name}, or choose another model"
        )
    objective.check(config.model.context_length)


def largest_divisor(n: int, at_most: int) -> int:
    """The largest divisor of n that is not above `at_most`; 0 where there is none."""
    small = [divisor for divisor in range(1, math.isqrt(n) + 1) if n % divisor == 0]
    return max((divisor for low in small for divisor in (low, n // low) if divisor <= at_most), default=0)


def fill_vocab_size(config: RunConfig, tokenizer_vocab_size: int) -> RunConfig:
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


def with_context_length(config: RunConfig, context_length: int) -> RunConfig:
    """Return the config of a trained model with windows of another length.

    Raises: ConfigError if the model cannot read them.
    """
    trained_with = config.model.context_length
    if config.model.family != "decoder":
        raise ConfigError(f"--context-length={context_length}: this is for a decoder; RUN is an {config.model.family}")
    if config.positional_encoding.name == "learned" and context_length > trained_with:
        raise ConfigError(
            f"--context-length={context_length}: learned positions end at the {trained_with} that the model was "
            f"trained with; use at most {trained_with}, or train with another positional_encoding"
        )
    return config.model_copy(update={"model": config.model.model_copy(update={"context_length": context_length})})


def check_split_lengths(config: RunConfig, n_train_tokens: int, n_val_tokens: int, of_what: str = "") -> None:
    """Check that a window fits into each split, of one corpus of a mixture where that is said. Raises: ConfigError."""
    if isinstance(config.objective, MaskedLMConfig):
        return  # lines are as long as they are
    context = config.model.context_length
    needed, window = context + 1, "context_length + 1"
    has_prefix = isinstance(config.objective, PrefixLMConfig)
    if isinstance(config.objective, PrefixLMConfig):
        needed = context + config.objective.prefix_lengths(context)[1]
        window = f"context_length + the longest prefix = {needed}"
    for split, n_tokens in (("train", n_train_tokens), ("val", n_val_tokens)):
        if n_tokens < needed:
            remedy = "lower them" if has_prefix else f"use at most {max(n_tokens - 1, 0)}"
            raise ConfigError(
                f"model.context_length={context} is too long for the {split} split of {n_tokens} tokens{of_what}; "
                f"a window takes {window} of them: {remedy}, or more text"
            )
