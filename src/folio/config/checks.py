"""The rules between sections of the config.

The types of the sections hold the rules of single keys, their `check` methods those between keys of one section.
"""

from folio.config.objective import CausalLMConfig, Objectives
from folio.config.optimizer import Optimizers
from folio.config.run import RunConfig
from folio.config.section import ConfigError, sections_by_name
from folio.config.trainer import NO_FLOAT16
from folio.config.training import largest_micro_batch_size


def check_config(config: RunConfig) -> None:
    """Check all rules that need only the config, before any data is read. Raises: ConfigError."""
    _check_batch_size(config)
    _check_strategy(config)
    config.schedule.check(config.optimizer.learning_rate, config.training.max_steps)
    config.data.check()
    config.tokenizer.check()
    config.transformer_config(vocab_size=1 if config.model.vocab_size is None else config.model.vocab_size)
    _check_parametrization(config)
    _check_family(config)
    config.objective.check(config.model.context_length)
    _check_objective_of_documents(config)
    check_documents(config, f"data={config.data.name}", config.data.has_documents, config.data.has_prompts)


def check_split_lengths(
    config: RunConfig, n_train_tokens: int, n_val_tokens: int, corpus_name: str | None = None
) -> None:
    """Check that a window fits into each split of the corpus. Raises: ConfigError.

    `corpus_name` is for the corpora of a mixture.
    """
    for split, n_tokens in (("train", n_train_tokens), ("val", n_val_tokens)):
        check_split_length(config, split, n_tokens, corpus_name)


def check_split_length(config: RunConfig, split: str, n_tokens: int, corpus_name: str | None = None) -> None:
    """Check that a window fits into a split. Raises: ConfigError."""
    objective, context_length = config.objective, config.model.context_length
    if objective.reads_lines or config.training.loss_on == "completion":
        return
    of_corpus = "" if corpus_name is None else f" of {corpus_name}"
    if n_tokens < objective.window_length(context_length):
        shorter = (length for length in range(context_length, 0, -1) if objective.window_length(length) <= n_tokens)
        longest = next(shorter, None)
        raise ConfigError(
            f"model.context_length={context_length} is too long for the {split} split of {n_tokens} tokens"
            f"{of_corpus}; a window takes {objective.window_length(context_length)} tokens: "
            f"{'' if longest is None else f'use at most {longest}, or '}use more text"
        )


def check_documents(config: RunConfig, where: str, has_documents: bool | None, has_prompts: bool | None) -> None:
    """Check that a corpus has the documents that the config asks for; None if that is not known yet.

    Raises: ConfigError.
    """
    if config.data.mask_documents and has_documents is False:
        raise ConfigError(
            f"data.mask_documents=true needs a text that is divided into documents, and {where} is not; leave it out, "
            "or give files of documents: data=text_files data.path='corpus/**/*.txt'"
        )
    if config.training.loss_on == "completion" and has_prompts is False:
        read = "" if config.data.name == "text_files" else "data=text_files data.path=pairs.jsonl "
        raise ConfigError(
            f"training.loss_on=completion needs documents with a prompt and a completion, and {where} has none; name "
            f"their fields in lines of JSON: {read}data.prompt_field=prompt data.completion_field=completion"
        )


def _check_objective_of_documents(config: RunConfig) -> None:
    """Raises: ConfigError if the objective is not the one that has masks of documents, and losses on completions."""
    if isinstance(config.objective, CausalLMConfig):
        if config.objective.token_noise and config.training.loss_on == "completion":
            raise ConfigError(
                f"objective.token_noise={config.objective.token_noise} has no effect with training.loss_on=completion; "
                "leave it out"
            )
        return
    for key, is_given, reason in (
        ("data.mask_documents=true", config.data.mask_documents, "in which each text is read by itself"),
        ("training.loss_on=completion", config.training.loss_on == "completion", "which says itself what is predicted"),
    ):
        if is_given:
            raise ConfigError(
                f"{key} needs objective=causal_lm, not objective={config.objective.name}, {reason}; leave it out"
            )


def _check_batch_size(config: RunConfig) -> None:
    """Raises: ConfigError if the batch cannot be divided evenly among processes and micro-batches."""
    training, trainer = config.training, config.trainer
    batch_size, n_processes = training.batch_size, trainer.n_processes
    if batch_size % n_processes:
        nodes = f" and trainer.num_nodes={trainer.num_nodes}" if trainer.num_nodes > 1 else ""
        raise ConfigError(
            f"training.batch_size={batch_size} must be a multiple of the {n_processes} processes of trainer.devices="
            f"{trainer.devices}{nodes}; try training.batch_size={n_processes * -(-batch_size // n_processes)}"
        )
    per_process = batch_size // n_processes
    if per_process % config.micro_batch_size:
        whole = f"training.batch_size={batch_size}"
        if n_processes > 1:
            whole += f" over {n_processes} processes, {per_process} sequences each,"
        raise ConfigError(
            f"{whole} must be a multiple of training.micro_batch_size={training.micro_batch_size}; try "
            f"training.micro_batch_size={largest_micro_batch_size(per_process, config.micro_batch_size)}"
        )


def _check_strategy(config: RunConfig) -> None:
    """Raises: ConfigError if precision or strategy do not suit the devices or the optimizer."""
    trainer = config.trainer
    if trainer.accelerator == "cpu" and trainer.precision == "16-mixed":
        raise ConfigError(NO_FLOAT16)
    if trainer.accelerator == "mps" and trainer.n_processes > 1:
        raise ConfigError(f"trainer.devices={trainer.devices}: a Mac has one GPU; use trainer.devices=1")
    if trainer.strategy == "fsdp":
        if trainer.accelerator == "mps":
            raise ConfigError(
                "trainer.strategy=fsdp: PyTorch shards no models on Apple's GPUs; use trainer=mps, or trainer=fsdp_cpu"
            )
        if trainer.precision == "16-mixed":
            raise ConfigError(
                "trainer.precision=16-mixed: trainer.strategy=fsdp has no loss scaling for float16; use bf16-mixed or "
                "32-true"
            )


def _check_parametrization(config: RunConfig) -> None:
    """Raises: ConfigError if the optimizer or the schedule would scale the updates with the width in its own way."""
    if config.model.parametrization == "standard":
        return
    mup, optimizer, schedule = "model.parametrization=mup", config.optimizer, config.schedule
    if not optimizer.fits_mup:
        options = sections_by_name(Optimizers).items()
        fitting = " or ".join(f"optimizer={name}" for name, section in options if section.fits_mup)
        raise ConfigError(f"optimizer={optimizer.name} has no rule for {mup}; use {fitting}")
    if optimizer.name == "adam" and optimizer.weight_decay:
        raise ConfigError(
            f"optimizer.weight_decay={optimizer.weight_decay:g} of optimizer=adam passes through the moments, and "
            f"{mup} has no rule for that; use optimizer=adamw, or optimizer.weight_decay=0"
        )
    if schedule.name == "noam":
        raise ConfigError(
            f"schedule=noam lowers the learning rate with the width by itself, which {mup} already does; use another "
            "schedule, such as schedule=cosine"
        )


def _check_family(config: RunConfig) -> None:
    """Raises: ConfigError if the objective cannot train the model."""
    objective, family = config.objective, config.model.family
    if objective.family != family:
        name = next(name for name, section in sections_by_name(Objectives).items() if section.family == family)
        raise ConfigError(
            f"objective={objective.name} trains a model of family {objective.family}, but model={config.model.name} is "
            f"of family {family}; add objective={name}, or choose another model"
        )
