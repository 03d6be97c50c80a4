"""The summary of a run that is printed and stored before its first step."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from folio.config.run import RunConfig
from folio.config.section import ConfigError
from folio.data.prepared import PreparedData
from folio.distributed.devices import Device
from folio.models import TransformerConfig, build_model
from folio.models.flops import training_flops_per_token
from folio.objectives.objective import build_objective
from folio.optim.schedules import learning_rate
from folio.runtime.terminal import printable


@dataclass(frozen=True)
class RunSummary:
    """The numbers by which the user checks that the run is the intended one. Its fields are those of preflight.json."""

    run_folder: str
    device: str
    precision: str
    n_processes: int
    num_nodes: int
    strategy: str
    """Strategy for several processes; unused with one."""
    batch_size: int
    """Number of sequences per optimizer step."""
    micro_batch_size: int
    """Number of sequences that a device processes at once."""
    accumulation: int
    """Number of micro-batches per optimizer step."""
    data: str
    text_sha256: str
    """SHA-256 of the whole corpus. A run resumes only with the text that it started with."""
    train_tokens: int
    val_tokens: int
    val_bytes: int
    """Size of the validation split, which tells two splits of one text apart, whatever the tokenizer."""
    tokenizer: str
    tokenizer_sha256: str | None
    """SHA-256 of the file that the tokenizer was read from; None if it needs no file."""
    n_symbols: int
    """Vocabulary size of the tokenizer."""
    vocab_size: int
    """Vocabulary size of the model, which may have a mask token and padding in addition."""
    model: str
    n_parameters: int
    n_trainable_parameters: int
    n_parameters_without_embeddings: int
    tokens_per_step: int
    """Number of tokens read per optimizer step; the mean if sequences differ in length."""
    flops_per_token: float
    """Model FLOPs of training for each token, by which utilization is measured."""
    steps: int
    epochs: float
    """Number of tokens read in all, divided by those of the training split."""
    objective: str
    optimizer: str
    seed: int
    debug: str | None
    """The debugging mode, and how it differs."""
    tags: list[str]
    notes: str | None

    def table(self) -> Table:
        """Return the table to print."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(overflow="fold")  # so that a long path is shown completely
        rows = "" if self.vocab_size == self.n_symbols else f", {self.vocab_size:,} rows in the model"
        shown = {
            "run folder": self.run_folder,
            "device": f"{self._processes()}{self.device}, precision {self.precision}",
            "data": f"{self.data}: {self.train_tokens:,} training and {self.val_tokens:,} validation tokens",
            "tokenizer": f"{self.tokenizer}, {self.n_symbols:,} symbols{rows}",
            "model": self.model,
            "parameters": f"{self.n_parameters:,} ({self.n_trainable_parameters:,} trainable, "
            f"{self.n_parameters_without_embeddings:,} without embeddings)",
            "objective": self.objective,
            "optimizer": self.optimizer,
            "steps": f"{self.steps:,} of {self.tokens_per_step:,} tokens = {self.epochs:.2f} epochs",
            "batch": self._batch(),
            "seed": str(self.seed),
        }
        if self.debug is not None:
            shown["debug"] = self.debug
        if self.tags:
            shown["tags"] = ", ".join(self.tags)
        if self.notes is not None:
            shown["notes"] = self.notes
        for name, value in shown.items():
            table.add_row(name, Text(printable(value)))  # as Text, because a path may look like markup
        return table

    def _processes(self) -> str:
        if self.n_processes == 1:
            return ""
        machines = f" on each of {self.num_nodes} machines" if self.num_nodes > 1 else ""
        return f"{self.n_processes // self.num_nodes} processes{machines} by {self.strategy}, each on "

    def _batch(self) -> str:
        factors = [f"{self.micro_batch_size} at once"]
        if self.n_processes > 1:
            factors.insert(0, f"{self.n_processes} devices")
        if self.accumulation > 1:
            factors.append(f"{self.accumulation} times")
        product = "" if len(factors) == 1 else f" = {' x '.join(factors)}"
        return f"{self.batch_size:,} sequences a step{product}"


def summarize_run(
    config: RunConfig, model_config: TransformerConfig, data: PreparedData, device: Device, folder: Path
) -> RunSummary:
    """Return the summary of a run. The model is built without memory for its weights, so any size is quick.

    Raises: ConfigError if the model cannot be built.
    """
    try:
        with torch.device("meta"):
            model = build_model(model_config)
    except ValueError as error:  # a positional encoding with a YAML file that is missing in the code's table
        raise ConfigError(str(error)) from None
    training, n_train = config.training, data.train.info.n_tokens
    objective = build_objective(config, data)
    tokens_per_step = objective.tokens_per_step()
    return RunSummary(
        run_folder=str(folder),
        device=device.name,
        precision=device.precision,
        n_processes=config.trainer.n_processes,
        num_nodes=config.trainer.num_nodes,
        strategy=config.trainer.strategy,
        batch_size=training.batch_size,
        micro_batch_size=config.micro_batch_size,
        accumulation=config.accumulate_grad_batches,
        data=describe_data(config, data, tokens_per_step),
        text_sha256=data.train.info.source_sha256,
        train_tokens=n_train,
        val_tokens=data.val.info.n_tokens,
        val_bytes=data.val.info.n_bytes,
        tokenizer=config.tokenizer.name,
        tokenizer_sha256=data.tokenizer.source_sha256,
        n_symbols=data.tokenizer.vocab_size,
        vocab_size=model_config.vocab_size,
        model=describe_model(config.model.name, model_config),
        n_parameters=model.n_parameters,
        n_trainable_parameters=model.n_trainable_parameters,
        n_parameters_without_embeddings=model.n_parameters_without_embeddings,
        tokens_per_step=round(tokens_per_step),
        flops_per_token=training_flops_per_token(model, tokens_per_step / training.batch_size),
        steps=training.max_steps,
        epochs=training.max_steps * tokens_per_step / n_train,
        objective=objective.description(),
        optimizer=describe_optimizer(config),
        seed=config.seed,
        debug=None if config.debug is None else config.debug.describe(),
        tags=config.tags,
        notes=config.notes,
    )


def describe_data(config: RunConfig, data: PreparedData, tokens_per_step: float) -> str:
    """Return the source of the text; for a mixture the share of each corpus, and how often it is read."""
    if not data.parts:
        return config.data.path or config.data.name
    n_read = config.training.max_steps * tokens_per_step
    parts = (
        f"{part.name} {100 * part.share:.3g} % ({part.share * n_read / part.train.info.n_tokens:.2f} epochs)"
        for part in data.parts
    )
    return ", ".join(parts)


def describe_model(name: str, config: TransformerConfig) -> str:
    """Return the size and the positional encoding of a model, and its family if it is not a decoder."""
    family = "" if config.family == "decoder" else f"{config.family.replace('_', '-')}, "
    conditioning = f", {config.conditioning}" if config.conditioning else ""
    heads = f"{config.n_heads} heads"
    if config.key_value_heads != config.n_heads:
        heads += f" over {config.key_value_heads} of keys"
    window = "" if config.attention_window is None else f", attention window {config.attention_window}"
    return (
        f"{name}: {family}{config.n_layers} layers, {heads}, d_model {config.d_model}, "
        f"context {config.context_length}{window}, {config.positional_encoding} positions{conditioning}"
    )


def describe_optimizer(config: RunConfig) -> str:
    """Return the optimizer, its schedule, and the highest learning rate."""
    optimizer, schedule = config.optimizer, config.schedule
    if schedule.scaled_by == "optimizer.learning_rate":
        return f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, schedule {schedule.name}"
    step = min(schedule.warmup_steps, config.training.max_steps)
    return (
        f"{optimizer.name}, schedule {schedule.name}, highest learning rate {learning_rate(config, step - 1):.3g} at "
        f"step {step}; optimizer.learning_rate is not used"
    )
