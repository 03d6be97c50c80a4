"""One run, from a checked config to metrics.json."""

import logging
import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from folio.config import ConfigError, RunConfig, largest_divisor, plain
from folio.data.prepared import PreparedData
from folio.data.tokenizers import state_to_json
from folio.errors import FolioError
from folio.files import sole_use, write_atomically, write_json
from folio.generation.prompts import MASK
from folio.interpreter import python_command
from folio.memory import forget_peak, peak_bytes
from folio.models import Model, TransformerConfig, build_model
from folio.models.gpt2_format import GPT2FormatError
from folio.models.pretrained import load_gpt2
from folio.training import checkpoint as checkpoints
from folio.training.allocator import return_large_blocks
from folio.training.batches import objective_of
from folio.training.callbacks import (
    Checkpoints,
    Curves,
    DataWatch,
    FirstEstimate,
    ProgressBar,
    Samples,
)
from folio.training.console import console, keep_quiet, log, start_log
from folio.training.datamodule import TokenDataModule
from folio.training.devices import Device, is_out_of_memory, shared
from folio.training.divergence import Diverged
from folio.training.evaluation import in_words
from folio.training.hparams import begin_session, end_session
from folio.training.launch import RankDied, Task, free_port, train_in_processes
from folio.training.lit_module import LanguageModel
from folio.training.loggers import build_loggers
from folio.training.pace import Pace, duration
from folio.training.pictures import Pictures
from folio.training.preflight import Preflight, preflight
from folio.training.provenance import git_commit, versions
from folio.training.rewind import rewind
from folio.training.stopping import EndsEarly, Hopeless, Interrupted, Judge, StopOnSignal, ValidateAtEnd
from folio.training.strategies import build_strategy, cluster_environment
from folio.training.world import World

PROMPT_TOKENS = 6
"""Of a prompt that is taken from the text."""


@dataclass(frozen=True)
class Occasion:
    """How a run came about, and what it is part of."""

    overrides: Sequence[str] = ()
    """The words that it was started with."""
    compared: Sequence[str] = ()
    """Keys of the config in which it differs from the runs that it will be compared with."""
    judge: Judge | None = None
    """May end it early, after a validation."""
    others_follow: bool = False
    """In the same process: a signal is for them, too."""


def run(
    config: RunConfig,
    data: PreparedData,
    device: Device,
    folder: Path,
    resumed: bool,
    occasion: Occasion | None = None,
    open_data: Callable[[], PreparedData] | None = None,
    world: World | None = None,
) -> float | None:
    """Train as `config` says and leave a whole run folder behind; `resumed` goes on from its last checkpoint.

    Where the config asks for more processes than there are in `world`, they are started, and open the data by
    `open_data`, which must be a function that can be pickled.

    Returns: the final validation loss in nats; None for a dry run, and for a run that the judge ended.
    Raises: SystemExit with 128 + n where signal n stopped the run; where others follow, also where it came in the
        last step, which ends the run as it should.
    """
    world = world or World()
    assert config.model.vocab_size is not None
    occasion = occasion or Occasion()
    if config.trainer.n_processes > world.size:
        device = shared(device, config.trainer.devices)
    shape = config.transformer_config(config.model.vocab_size)
    figures = preflight(config, shape, data, device, folder)
    if not world.is_first:
        world.from_first(lambda: None)  # the folder is claimed and described
        return None if config.dry_run else train(config, data, device, folder, figures, resumed, occasion, world)
    console.print(figures.table())

    def begin() -> None:
        stack.enter_context(sole_use(folder, f"training in {folder}"))
        _describe(folder, config, data, figures, occasion.overrides)

    with ExitStack() as stack:
        world.from_first(begin)
        if config.dry_run:
            log.info("dry_run=true: stopping before the first step")
            return None
        log.info(f"{'resuming' if resumed else 'training'} in {folder} on {device.name}")
        if config.trainer.n_processes == world.size:
            return train(config, data, device, folder, figures, resumed, occasion, world)
        assert open_data is not None
        return _train_in_processes(Task(config, device, folder, figures, resumed, occasion, open_data, free_port()))


def train(
    config: RunConfig,
    data: PreparedData,
    device: Device,
    folder: Path,
    figures: Preflight,
    resumed: bool,
    occasion: Occasion,
    world: World,
    asked_to_stop: Callable[[], int] | None = None,
) -> float | None:
    """The part of a run that is the same in each of its processes; `asked_to_stop` as in `StopOnSignal`."""
    start_log(folder / "train.log") if world.is_first else keep_quiet()
    assert config.model.vocab_size is not None
    shape = config.transformer_config(config.model.vocab_size)
    with memory_in_one_line(config, device):
        parts = Run(config, shape, data, device, folder, figures, resumed, occasion, world, asked_to_stop)
    if not world.is_first:
        return parts.fit()
    with in_hparams_tab(config, folder, occasion.compared, resumed):
        loss = parts.fit()
    if occasion.others_follow and parts.stop_on_signal.received is not None:
        raise SystemExit(128 + parts.stop_on_signal.received)
    return loss


def _train_in_processes(task: Task) -> float | None:
    try:
        return train_in_processes(task)
    except Interrupted as stop:
        log.info(f"stopped at once by {stop}{_way_on(task.folder)}")
        raise SystemExit(stop.exit_code) from None
    except RankDied as error:
        raise FolioError(f"{error}{_way_on(task.folder)}") from None


def _way_on(folder: Path) -> str:
    """From the last checkpoint, where there is one."""
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return ""
    return _way_on_from(checkpoints.load(last, mmap=True)["global_step"], folder)


def _way_on_from(step: int, folder: Path) -> str:
    return f"; last.ckpt has step {step}: go on with {resume_command(folder)}"


def _describe(
    folder: Path, config: RunConfig, data: PreparedData, figures: Preflight, overrides: Sequence[str]
) -> None:
    """Write what a run folder holds besides what training brings."""
    write_json(folder / "preflight.json", asdict(figures))
    write_atomically(folder / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False).encode())
    if not (folder / "overrides.json").exists():  # a run that goes on keeps the words that it was started with
        write_json(folder / "overrides.json", list(overrides))
    # Beside the one in each checkpoint: read without torch, it lets a wrong prompt be answered at once.
    write_atomically(folder / "tokenizer.json", state_to_json(data.tokenizer.state()))
    start_log(folder / "train.log")


@contextmanager
def in_hparams_tab(config: RunConfig, folder: Path, compared: Sequence[str], resumed: bool) -> Iterator[None]:
    """Show the run in TensorBoard's HParams tab from its beginning on, and with how it ended: well, or with an error.

    A run that was stopped and may go on has not ended.
    """
    if config.logger.name != "tensorboard":
        yield
        return
    place = folder / "tensorboard"
    begin_session(place, plain(config), compared, goes_on=resumed)
    try:
        yield
    except Exception:
        end_session(place, finished=False)
        raise
    end_session(place, finished=True)


@contextmanager
def memory_in_one_line(config: RunConfig, device: Device) -> Iterator[None]:
    """Raises: FolioError in the place of what means that memory is exhausted."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        training, model = config.training, config.model
        fewer = largest_divisor(training.batch_size // config.trainer.n_processes, config.sequences_at_once // 2)
        remedy = f"try training.micro_batch_size={fewer}" if fewer else "try a shorter context or a smaller model"
        raise FolioError(
            f"out of memory on {device.name} with training.batch_size={training.batch_size}, training.micro_batch_size="
            f"{config.sequences_at_once} and model.context_length={model.context_length}; {remedy}"
        ) from error


class Run:
    """The parts of a run, put together for Lightning."""

    def __init__(
        self,
        config: RunConfig,
        shape: TransformerConfig,
        data: PreparedData,
        device: Device,
        folder: Path,
        figures: Preflight,
        resumed: bool = False,
        occasion: Occasion | None = None,
        world: World | None = None,
        asked_to_stop: Callable[[], int] | None = None,
    ) -> None:
        self.config = config
        self.world = world or World()
        self.device = device
        self.folder = folder
        self.occasion = occasion or Occasion()
        forget_peak_memory(device)
        if device.accelerator == "cpu":
            return_large_blocks()
        self.data = data
        self.figures = figures
        self.last_checkpoint = folder / "checkpoints" / "last.ckpt" if resumed else None
        self.resumed_at: int | None = None
        if self.last_checkpoint is not None:
            self.resumed_at = int(checkpoints.load(self.last_checkpoint, mmap=True)["global_step"])
            if self.world.is_first:
                rewind(folder, self.resumed_at)
        self.loggers = build_loggers(config, folder, self.resumed_at) if self.world.is_first else []
        objective = objective_of(config, data, self.world)
        measured = objective.validation(data.val)
        self.datamodule = TokenDataModule(config, data, measured, self.world)
        L.seed_everything(config.seed, verbose=False)
        self.module = LanguageModel(
            model=first_model(config, shape, resumed),
            config=config,
            contents=checkpoints.Contents(plain(config), shape, data.tokenizer),
            val_info=measured.info,
            val_parts=measured.infos,
            fused_optimizer=device.supports_fused_optimizer,
            scaled_gradients=device.precision == "16-mixed",
            baseline=measured.baseline,
            loss=objective.loss,
            world=self.world,
        )
        training = config.training
        self.pace = Pace(self.world)
        self.curves = Curves(self.pace, training, objective.coding_info(data.train))
        samples = config.callbacks.samples.model_copy(update={"prompt": sample_prompt(config, data)})
        self.samples = Samples(samples, data.tokenizer, config.seed, folder / "samples.md")
        self.checkpoints = Checkpoints(
            folder / "checkpoints", training, config.callbacks.checkpoint.keep_every_steps, self._restore_folder
        )
        self.stop_on_signal = StopOnSignal(self.checkpoints, self.world, asked_to_stop)
        self.data_watch = DataWatch(data)

    def callbacks(self) -> list[Callback]:
        """In the order of their hooks: what measures, what saves, what may stop the run.

        What only some runs have comes before what saves, so that a checkpoint holds its state of the same step. Pace
        comes last, because samples, checkpoints and pictures are no training time.
        """
        max_steps, judge = self.config.training.max_steps, self.occasion.judge
        return [
            self.data_watch,
            self.curves,
            FirstEstimate(max_steps),
            ProgressBar(console, self.pace, self.curves, max_steps),
            self.samples,
            *(chosen.load_code()(chosen, self) for chosen in self.config.callbacks.chosen),
            self.checkpoints,
            Pictures(self.samples, max_steps),
            ValidateAtEnd(max_steps),
            self.stop_on_signal,
            *([EndsEarly(judge, self.curves, max_steps, self.world)] if judge else []),
            self.pace,
        ]

    def fit(self) -> float | None:
        """Train to the end, or until the judge or a signal ends it. Raises: FolioError, which says how to go on."""
        trainer = build_trainer(self.config, self.device, self.loggers, self.callbacks(), self.world)
        try:
            with self.stop_on_signal, memory_in_one_line(self.config, self.device):
                trainer.fit(self.module, self.datamodule, ckpt_path=self.last_checkpoint)
        except Interrupted as stop:
            if stop.at_once:
                log.info(str(self._with_way_on(f"stopped at once by {stop}")))
            else:
                self._finish(trainer, "interrupted")
                log.info(
                    f"stopped by {stop} after step {trainer.global_step}; go on with:\n  {resume_command(self.folder)}"
                )
                self.stop_on_signal.requeue(stop)
            raise SystemExit(stop.exit_code) from None
        except Hopeless as verdict:
            self._finish(trainer, "pruned")
            log.info(f"ended early after step {trainer.global_step}: {verdict}")
            return None
        except Diverged as error:
            self._finish(trainer, "diverged")
            raise self._with_way_on(error) from None
        except FolioError as error:
            raise self._with_way_on(error) from error
        except Exception as error:
            self._blame_data(error)
            raise
        metrics = self._finish(trainer, "finished")
        if self.world.is_first:
            self._report(metrics)
        return float(metrics["val/loss_nats"])

    def _blame_data(self, error: Exception) -> None:
        """Raises: FolioError where the tokens were altered: one that no embedding has is an IndexError to torch."""
        try:
            self.data_watch.check()
        except FolioError as fault:
            raise self._with_way_on(fault) from error

    def _restore_folder(self) -> None:
        """Of a run whose folder was removed: what training holds in memory is worth more than the wish behind that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _describe(self.folder, self.config, self.data, self.figures, self.occasion.overrides)
        log.warning(f"warning: {self.folder} was removed and is made again; its curves and samples so far are lost")

    def _finish(self, trainer: L.Trainer, status: str) -> dict[str, Any]:
        metrics = self._metrics(trainer, status)
        if self.world.is_first:
            write_json(self.folder / "metrics.json", metrics)
        return metrics

    def _metrics(self, trainer: L.Trainer, status: str) -> dict[str, Any]:
        step, best = trainer.global_step, self.checkpoints.best_step
        return {
            "status": status,
            **{f"val/{name}": value for name, value in self.curves.val.items()},
            "val/step": self.curves.val_step,
            "train/loss_nats": self.curves.train_loss_nats,
            "best/val/loss_nats": self.checkpoints.best_loss_nats if best is not None else None,
            "best/step": best,
            "n_parameters": self.figures.n_parameters,
            "n_tokens_seen": self.pace.n_tokens,
            "step": step,
            "skipped_steps": self.module.gradients.n_skipped,
            "elapsed_s": self.pace.elapsed_s,
            "train/tokens_per_s": self.pace.mean_tokens_per_s(),
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "best_checkpoint": "checkpoints/best.ckpt" if best is not None else None,
            "seed": self.config.seed,
            "device": self.device.name,
            "n_processes": self.world.size,
            "versions": versions(),
            "git_commit": git_commit(),
        }

    def _report(self, metrics: dict[str, Any]) -> None:
        best = f"{metrics['best/val/loss_nats']:.4f} nats at step {metrics['best/step']}"
        rows = [
            *in_words(metrics, "val/", "validation"),
            ("tokens/s", f"{metrics['train/tokens_per_s']:,.0f}"),
            ("time", duration(metrics["elapsed_s"])),
            ("best", best),
        ]
        log.info("\n" + "\n".join(f"{name:<16} {value}" for name, value in rows))
        if self.samples.latest:
            log.info(f"\n{self.samples.latest}")
        folder, python = shlex.quote(str(self.folder)), python_command()
        option = "--prefix" if self.config.model.family == "encoder_decoder" else "--prompt"
        log.info(
            f"""
run folder       {folder}
look at it       make tensorboard
generate         {python} scripts/generate.py {folder} {option} {shlex.quote(self.samples.config.prompt)}
measure again    {python} scripts/evaluate.py {folder}
resume           {resume_command(self.folder)} training.max_steps={2 * self.config.training.max_steps}"""
        )

    def _with_way_on(self, what: object) -> FolioError:
        """What ended the run, and the way on from the last checkpoint, where there is one."""
        step = self.checkpoints.saved_step if self.checkpoints.saved_step is not None else self.resumed_at
        return FolioError(str(what) if step is None else f"{what}{_way_on_from(step, self.folder)}")


def resume_command(folder: Path) -> str:
    """What a person types to go on with a run."""
    return f"{python_command()} train.py resume={shlex.quote(str(folder))}"


def peak_memory_bytes(device: Device) -> int:
    """The most memory of this part of the run: on a CUDA GPU what torch's tensors took there, else the process."""
    return torch.cuda.max_memory_allocated() if device.accelerator == "gpu" else peak_bytes()


def forget_peak_memory(device: Device) -> None:
    """Begin to count anew: the process may have had another run before."""
    if device.accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    forget_peak()


class AtomicCheckpointIO(CheckpointIO):
    """Lets Lightning write and read checkpoints by `folio.training.checkpoint`: whole files of plain data."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoints.save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return checkpoints.load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def first_model(config: RunConfig, shape: TransformerConfig, resumed: bool) -> Model:
    """With new weights, or those of init_from; a resumed run finds its own in the checkpoint. Raises: ConfigError."""
    if config.init_from is None or resumed:
        return build_model(shape)
    try:
        model = load_gpt2(
            Path(config.init_from),
            context_length=shape.context_length,
            dropout=shape.dropout,
            attention_dropout=shape.attention_dropout,
        )
    except GPT2FormatError as error:
        raise ConfigError(f"init_from={config.init_from}: {error}") from None
    assert model.config == shape
    return model


def build_trainer(
    config: RunConfig,
    device: Device,
    loggers: list[Logger],
    callbacks: list[Callback],
    world: World | None = None,
) -> L.Trainer:
    """Lightning's Trainer, with everything off that Folio's own callbacks do."""
    training, accumulation, world = config.training, config.accumulation, world or World()
    _quieten_lightning()
    return L.Trainer(
        accelerator=device.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=build_strategy(config.trainer, world),
        precision=device.precision,  # type: ignore[arg-type]
        deterministic=config.deterministic,
        benchmark=False,
        detect_anomaly=config.trainer.detect_anomaly,
        max_steps=training.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulation,
        val_check_interval=training.validate_every_steps * accumulation,
        check_val_every_n_epoch=None,  # steps, not epochs, decide when to validate
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), cluster_environment(world.place)],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def sample_prompt(config: RunConfig, data: PreparedData) -> str:
    """What samples begin with: the configured prompt, or the first characters of the validation text if it lacks
    one of the prompt's. ROMEO: need not be sayable in one's own text, and a run must not end for that."""
    prompt = config.callbacks.samples.prompt
    try:
        data.tokenizer.encode(prompt.replace(MASK, ""))
    except FolioError:
        opening = data.tokenizer.decode(data.val.tokens[:PROMPT_TOKENS].tolist())
        opening += MASK if config.model.family == "encoder" else ""
        log.info(f"callbacks.samples.prompt={prompt!r} has characters that the text lacks; samples begin {opening!r}")
        return opening
    return prompt


def _quieten_lightning() -> None:
    """Drop advice that does not hold here; other warnings stay."""
    os.environ.setdefault("LIGHTNING_DISABLE_TIPS", "1")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # One of Lightning's own calls into torch.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # torch from 2.13 on has another word for it, and says so; older ones have not.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated.*")
    # What is logged for callbacks is the same in each process already.
    warnings.filterwarnings("ignore", message=".*to accumulate the metric across devices.*")
    # A batch is one gather, cheaper than handing it over from a worker process.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Where a loader stands follows from the step alone, so it goes on exactly.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
