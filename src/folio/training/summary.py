"""What a run is about to do, before it does it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from folio.config.run import RunConfig
from folio.config.schedule import NoamScheduleConfig
from folio.config.section import ConfigError
from folio.data.prepared import PreparedData
from folio.distributed.devices import Device
from folio.models import TransformerConfig, build_model
from folio.objectives.objective import build_objective
from folio.optim.schedules import learning_rate
from folio.runtime.terminal import printable


@dataclass(frozen=True)
class RunSummary:
    """The figures that decide whether a run is the one that was meant."""

    run_folder: str
    device: str
    precision: str
    n_processes: int
    num_nodes: int
    strategy: str
    """Of more than one process; one has none."""
    batch_size: int
    """Sequences in one optimizer step."""
    micro_batch_size: int
    """Sequences at once on a device."""
    accumulation: int
    data: str
    text_sha256: str
    """Of the whole corpus: a run goes on only with the text that it began with."""
    train_tokens: int
    val_tokens: int
    tokenizer: str
    n_symbols: int
    """Of the tokenizer."""
    vocab_size: int
    """Of the model: an encoder has a mask besides, and a vocabulary may be padded."""
    model: str
    n_parameters: int
    n_trainable_parameters: int
    n_parameters_without_embeddings: int
    tokens_per_step: int
    """That are read; on average, where sequences differ in length."""
    steps: int
    epochs: float
    """Times that as many tokens are seen as the training split holds."""
    objective: str
    optimizer: str
    seed: int

    def table(self) -> Table:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(overflow="fold")  # a long folder is shown whole
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
        for name, value in shown.items():
            table.add_row(name, Text(printable(value)))  # a path may look like markup
        return table

    def _processes(self) -> str:
        if self.n_processes == 1:
            return ""
        machines = f" on each of {self.num_nodes} machines" if self.num_nodes > 1 else ""
        return f"{self.n_processes // self.num_nodes} processes{machines} by {self.strategy}, each on "

    def _batch(self) -> str:
        cut = [f"{self.micro_batch_size} at once"]
        if self.n_processes > 1:
            cut.insert(0, f"{self.n_processes} devices")
        if self.accumulation > 1:
            cut.append(f"{self.accumulation} times")
        how = "" if len(cut) == 1 else f" = {' x '.join(cut)}"
        return f"{self.batch_size:,} sequences a step{how}"

    def to_plain(self) -> dict[str, object]:
        return asdict(self)


def summarize_run(
    config: RunConfig, shape: TransformerConfig, data: PreparedData, device: Device, folder: Path
) -> RunSummary:
    """The figures of a run. The model is built without memory for its weights, so any size is quick.

    Raises: ConfigError for a model that cannot be built.
    """
    try:
        with torch.device("meta"):
            model = build_model(shape)
    except ValueError as error:  # a positional encoding that has a YAML file and is not in the code's table
        raise ConfigError(str(error)) from None
    training, n_train = config.training, data.train.info.n_tokens
    n_tokens = build_objective(config, data).tokens_per_step()
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
        data=data_in_words(config, data),
        text_sha256=data.train.info.source_sha256,
        train_tokens=n_train,
        val_tokens=data.val.info.n_tokens,
        tokenizer=config.tokenizer.name,
        n_symbols=data.tokenizer.vocab_size,
        vocab_size=shape.vocab_size,
        model=model_in_words(config.model.name, shape),
        n_parameters=model.n_parameters,
        n_trainable_parameters=model.n_trainable_parameters,
        n_parameters_without_embeddings=model.n_parameters_without_embeddings,
        tokens_per_step=round(n_tokens),
        steps=training.max_steps,
        epochs=training.max_steps * n_tokens / n_train,
        objective=config.objective.name,
        optimizer=optimizer_in_words(config),
        seed=config.seed,
    )


def data_in_words(config: RunConfig, data: PreparedData) -> str:
    """Where the text comes from; of a mixture the shares, and how often each corpus is gone through."""
    if not data.parts:
        return config.data.path or config.data.name
    n_read = config.training.max_steps * build_objective(config, data).tokens_per_step()
    parts = (
        f"{part.name} {100 * part.share:.3g} % ({part.share * n_read / part.train.info.n_tokens:.2f} epochs)"
        for part in data.parts
    )
    return ", ".join(parts)


def model_in_words(name: str, shape: TransformerConfig) -> str:
    """Size, positions, and which of the families where it is not the decoder."""
    family = "" if shape.family == "decoder" else f"{shape.family.replace('_', '-')}, "
    conditioning = f", {shape.conditioning}" if shape.conditioning else ""
    return (
        f"{name}: {family}{shape.n_layers} layers, {shape.n_heads} heads, d_model {shape.d_model}, "
        f"context {shape.context_length}, {shape.positional_encoding} positions{conditioning}"
    )


def optimizer_in_words(config: RunConfig) -> str:
    """The optimizer, its schedule, and the highest rate that the two come to."""
    optimizer, schedule = config.optimizer, config.schedule
    if not isinstance(schedule, NoamScheduleConfig):
        return f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, schedule {schedule.name}"
    step = min(schedule.warmup_steps, config.training.max_steps)
    highest = learning_rate(config, step - 1)
    return (
        f"{optimizer.name}, schedule {schedule.name}, highest learning rate {highest:.3g} at step {step}; "
        "optimizer.learning_rate has no part in it"
    )
