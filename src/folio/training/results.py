"""The results of a run: the values of metrics.json, and the last lines on the terminal."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Timer

from folio.distributed.devices import peak_memory_bytes
from folio.distributed.peak_flops import cpu_name
from folio.models.formats.choice import NoFormatError, choose_format
from folio.objectives.metrics import format_rows
from folio.runs.description import read_overrides
from folio.runs.folders import resume_command
from folio.runs.provenance import versions
from folio.runtime.commands import command, quote_for_shell, tensorboard_command, typed_path
from folio.runtime.console import log
from folio.runtime.untrusted import shown
from folio.runtime.version import git_commit
from folio.training.assembly import TrainingParts
from folio.training.callbacks.throughput import Throughput, format_duration
from folio.training.context import RunContext
from folio.training.profiling import PROFILE_FOLDER


def final_metrics(status: str, step: int, parts: TrainingParts) -> dict[str, Any]:
    """Return the values of metrics.json. All processes of a run must call it."""
    context, metrics, throughput, best = parts.context, parts.metrics, parts.throughput, parts.checkpoints.best_step
    return {
        "status": status,
        "debug": None if context.config.debug is None else context.config.debug.name,
        "stop_reason": stop_reason(parts)[1] if status == "stopped_early" else None,
        **{f"val/{name}": value for name, value in metrics.val.items()},
        "val/step": metrics.val_step,
        "train/loss_nats": metrics.train_loss_nats,
        "best/val/loss_nats": parts.checkpoints.best_loss_nats if best is not None else None,
        "best/step": best,
        "n_parameters": context.summary.n_parameters,
        "n_tokens_seen": throughput.n_tokens,
        "step": step,
        "skipped_steps": parts.module.gradient_monitor.n_skipped,
        "elapsed_s": throughput.elapsed_s,
        "train/tokens_per_s": throughput.mean_tokens_per_s(),
        "mfu": throughput.mfu(throughput.mean_tokens_per_s()),
        **_energy(throughput),
        "peak_memory_bytes": peak_memory_bytes(context.device),
        "best_checkpoint": "checkpoints/best.ckpt" if best is not None else None,
        "seed": context.config.seed,
        "device": context.device.name,
        "processor": cpu_name(),
        "n_processes": parts.distributed.world_size,
        "versions": versions(),
        "git_commit": git_commit(),
    }


def _energy(throughput: Throughput) -> dict[str, Any]:
    """Return the energy of a run and what was measured; nothing where no meter tells."""
    energy_j = throughput.energy_j()
    return {} if energy_j is None else {"energy_j": energy_j, "energy_sources": throughput.energy_sources()}


def format_energy(metrics: dict[str, Any]) -> str:
    return f"{metrics['energy_j'] / 1e3:,.3g} kJ ({', '.join(metrics['energy_sources'])})"


def print_results(metrics: dict[str, Any], parts: TrainingParts) -> None:
    """Print what a finished run reached, its last sample, and the commands to continue with."""
    context, samples = parts.context, parts.samples
    if metrics["status"] == "stopped_early":
        log.info(f"stopped early at step {metrics['step']}: {metrics['stop_reason']}")
    if context.config.debug is not None:
        log.info(f"debug={context.config.debug.describe()}")
    best = f"{metrics['best/val/loss_nats']:.4f} nats at step {metrics['best/step']}"
    rows = [
        *format_rows(metrics, "val/"),
        ("tokens/s", f"{metrics['train/tokens_per_s']:,.0f}, MFU {metrics['mfu']:.2g}"),
        ("time", format_duration(metrics["elapsed_s"])),
        *([("energy", format_energy(metrics))] if "energy_j" in metrics else []),
        ("best", best),
    ]
    log.info("\n" + "\n".join(f"{name:<16} {value}" for name, value in rows))
    if samples.latest:
        log.info(f"\n{samples.latest}")
    log.info("\n" + "\n".join(f"{name:<16} {value}" for name, value in next_commands(metrics, parts)))


def next_commands(metrics: dict[str, Any], parts: TrainingParts) -> list[tuple[str, str]]:
    """Return the commands that continue from a finished run, each with what it is for. All of them work."""
    context = parts.context
    folder, prompt = quote_for_shell(typed_path(context.folder)), quote_for_shell(parts.samples.config.prompt)
    typed = any(word.startswith("paths.data_dir=") for word in context.origin.overrides)
    data_dir = ["--data-dir", quote_for_shell(typed_path(Path(context.config.paths.data_dir)))] if typed else []
    option = "--prefix" if context.config.model.family == "encoder_decoder" else "--prompt"
    rows = [("run folder", folder)]
    if (context.folder / "tensorboard").is_dir():
        rows.append(("curves", tensorboard_command(Path(context.config.paths.output_dir))))
    if context.config.trainer.profiler is not None:
        rows.append(("profile", quote_for_shell(typed_path(context.folder / PROFILE_FOLDER))))
    rows += [
        ("figures", command("scripts/figures.py", folder)),
        ("generate", command("scripts/generate.py", folder, option, prompt)),
        ("evaluate", command("scripts/evaluate.py", folder, *data_dir)),
    ]
    with suppress(NoFormatError):
        choose_format(context.model_config)
        rows.append(("export", command("scripts/export.py", folder, "my_model")))
    change = f"training.max_steps={2 * context.config.training.max_steps}"
    if metrics["status"] == "stopped_early":
        change = f"callbacks.{stop_reason(parts)[0]}=null"
    return [
        *rows,
        ("resume", f"{resume_command(context.folder, context.origin.overrides)} {change}"),
        *_suggestion(metrics, context),
    ]


def _suggestion(metrics: dict[str, Any], context: RunContext) -> list[tuple[str, str]]:
    """Return one experiment that the results suggest: against overfitting, or for knowing how much is chance."""
    words = read_overrides(context.folder)
    if metrics["debug"] is not None:
        kept = [word for word in words if not word.startswith(("debug", "resume="))]
        return [("try next", f"{command('train.py', *map(quote_for_shell, kept))}   # the run without debug=...")]
    if any(word.startswith("repeat=") for word in words):
        return []  # it keeps the config of another run
    dropout = context.config.model.dropout + 0.1
    if metrics["best/step"] < metrics["step"] and dropout < 1:
        kept = [word for word in words if not word.startswith(("model.dropout=", "resume="))]
        reason = f"the validation loss rose after step {metrics['best/step']}"
        new = [f"model.dropout={dropout:.2g}"]
    else:
        kept = ["-m", *(word for word in words if not word.startswith(("seed=", "name=", "resume=")))]
        reason, new = "how much of this result is chance", ["seed=1,2,3"]
    return [("try next", f"{command('train.py', *map(quote_for_shell, [*kept, *new]))}   # {reason}")]


def stop_reason(parts: TrainingParts) -> tuple[str, str]:
    """Return the optional callback that ended a run before its last step, and why, as far as it says so."""
    options = parts.optional_by_name()
    for name, callback in options.items():
        message = getattr(callback, "stopping_reason_message", None)  # EarlyStopping's
        if isinstance(message, str) and message:
            return name, shown(message)
        if isinstance(callback, Timer) and (callback.time_remaining() or 0.0) <= 0.0:
            return name, "the time of training is over"
    name = next(iter(options), "")
    return name, f"one of its callbacks asked for it ({', '.join(options)})"
