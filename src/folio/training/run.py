"""Run one training, from a checked config to metrics.json: claim the folder, start processes, fit, handle failures."""

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from folio.config.section import ConfigError
from folio.data.prepared import PreparedData
from folio.distributed.context import DistributedContext
from folio.distributed.devices import is_out_of_memory
from folio.distributed.launcher import LaunchSpec, RankDied, StopRequested, train_in_processes
from folio.runs.checkpoints import checkpoint_step
from folio.runs.folders import read_status, resume_hint
from folio.runtime.commands import override
from folio.runtime.console import console, log, print_table, silence_log, start_log
from folio.runtime.cpus import describe_overload, other_load
from folio.runtime.errors import FolioError, explain_os_error
from folio.runtime.files import lock_folder, write_json
from folio.runtime.signals import Interrupted
from folio.runtime.untrusted import shown
from folio.training.assembly import TrainingParts, describe_run
from folio.training.callbacks.pruning import TrialPruned
from folio.training.context import RunContext
from folio.training.divergence import Diverged
from folio.training.loggers.base import logged_run
from folio.training.memory_errors import explain_out_of_memory
from folio.training.profiling import build_profiler
from folio.training.results import final_metrics, print_results
from folio.training.trainer import build_trainer


def run(
    context: RunContext, data: PreparedData, open_data: Callable[[], PreparedData], distributed: DistributedContext
) -> float | None:
    """Train as the config says and leave a complete run folder behind.

    If the config asks for more processes than `distributed` has, they are started; each opens the data by
    `open_data`, which must be picklable.

    Returns: the final validation loss in nats; None for a dry run and for a pruned trial.
    Raises: SystemExit with 128 + n if signal n stopped the run, and, if more jobs follow, also if it arrived during
        the last step, which ends the run normally.
    """
    config, folder = context.config, context.folder
    if not distributed.is_global_zero:
        trains = distributed.broadcast(lambda: False)  # wait until rank 0 has claimed and described the folder
        return train(context, data, distributed) if trains else None

    def claim_folder() -> bool:
        """Return whether there are steps to train. A resumed run is changed only if there are."""
        stack.enter_context(lock_folder(folder, f"training in {folder}"))
        if config.dry_run or not context.origin.more_jobs_follow:  # a sweep prints one line for each job
            print_table(context.summary.table())
        complete = context.resumed and is_complete(context)
        trains = not (complete or config.dry_run)
        if trains or not context.resumed:
            describe_run(context, data)
        return trains

    with ExitStack() as stack:
        trains = distributed.broadcast(claim_folder)
        if config.dry_run:
            console.print("dry_run=true: stopping before the first step")
        if not trains:
            return None
        log.info(f"{'resuming' if context.resumed else 'training'} in {folder} on {context.device.name}")
        if busy := describe_overload(context.n_threads, other_load()):
            log.info(busy)
        if config.trainer.n_processes == distributed.world_size:
            return train(context, data, distributed)
        return _train_in_processes(context, open_data)


def is_complete(context: RunContext) -> bool:
    """Return whether a resumed run has already taken all of its steps, and say so.

    Raises: FolioError if it has taken more steps than it is asked for.
    """
    folder, max_steps = context.folder, context.config.training.max_steps
    step = checkpoint_step(folder / "checkpoints" / "last.ckpt")
    if step > max_steps:
        raise FolioError(
            f"training.max_steps={max_steps}: {folder} has already taken {step} steps; give more, or leave it out"
        )
    finished = step == max_steps and read_status(folder) == "finished"
    if finished:
        longer = override("training.max_steps", 2 * max_steps)
        console.print(f"already finished: {folder} has taken all of its {step} steps; train longer with {longer}")
    return finished


def _train_in_processes(context: RunContext, open_data: Callable[[], PreparedData]) -> float | None:
    target = partial(_train_rank, context, open_data)
    spec = LaunchSpec(
        target, context.config.trainer.devices, context.device, more_jobs_follow=context.origin.more_jobs_follow
    )
    try:
        return train_in_processes(spec)
    except Interrupted as stop:
        log.warning(f"stopped at once by {stop}{_resume_hint(context)}")
        raise SystemExit(stop.exit_code) from None
    except RankDied as error:
        raise FolioError(f"{error}{_resume_hint(context)}") from None


def _train_rank(
    context: RunContext,
    open_data: Callable[[], PreparedData],
    distributed: DistributedContext,
    stop_requested: StopRequested,
) -> float | None:
    return train(context, open_data(), distributed, stop_requested)


def _resume_hint(context: RunContext) -> str:
    """Return the end of a sentence about a run that ended: from which step it can be resumed, and how."""
    last = context.folder / "checkpoints" / "last.ckpt"
    try:
        return hint_to_resume(context, checkpoint_step(last)) if last.is_file() else ""
    except FolioError:  # damaged
        return ""


def hint_to_resume(context: RunContext, step: int) -> str:
    """Return the end of a sentence: from which step the run can be resumed, and how."""
    return resume_hint(step, context.folder, context.origin.overrides)


def train(
    context: RunContext,
    data: PreparedData,
    distributed: DistributedContext,
    stop_requested: StopRequested | None = None,
) -> float | None:
    """Run the part of a training that every process takes part in; see `StopOnSignal` for `stop_requested`."""
    if distributed.is_global_zero:
        start_log(context.folder / "train.log", only_warnings=context.origin.more_jobs_follow)
    else:
        silence_log()
    with explain_out_of_memory(context.config, context.device):
        parts = TrainingParts(context, data, distributed, stop_requested)
    with logged_run(parts.loggers, context.config, context.origin.compared):
        loss = fit(parts)
    if context.origin.more_jobs_follow and parts.stop_on_signal.received is not None:
        raise SystemExit(128 + parts.stop_on_signal.received)
    return loss


def fit(parts: TrainingParts) -> float | None:
    """Train to the end, or until a pruner or a signal ends the run. Raises: FolioError with the resume command."""
    context = parts.context
    profiler = build_profiler(context.config, context.folder, parts.distributed, parts.resumed_at or 0)
    trainer = build_trainer(
        context.config, context.device, parts.loggers, parts.callbacks(), context.folder, parts.distributed, profiler
    )
    try:
        with parts.stop_on_signal, explain_out_of_memory(context.config, context.device):
            trainer.fit(parts.module, parts.datamodule, ckpt_path=parts.last_checkpoint)
    except Interrupted as stop:
        _stop(trainer, parts, stop)
    except TrialPruned as reason:
        _write_metrics(trainer, parts, "pruned")
        log.warning(f"pruned after step {trainer.global_step}: {reason}")
        return None
    except Diverged as error:
        _write_metrics(trainer, parts, "diverged")
        raise _with_resume_hint(error, parts) from None
    except FolioError as error:
        raise _with_resume_hint(error, parts) from error
    except (MisconfigurationException, ModuleNotFoundError) as error:  # a callback that does not suit the run
        _blame_callback(error, parts)
        raise _with_resume_hint(ConfigError(f"{shown(error)}; fix this"), parts) from error
    except Exception as error:
        _blame_data(error, parts)
        _blame_callback(error, parts)
        _blame_checkpoint(error, trainer, parts)
        problem = explain_os_error(error) if isinstance(error, OSError) else None
        if problem is None:
            raise
        raise _with_resume_hint(f"{problem}; fix this", parts) from error
    finally:
        if profiler is not None:
            profiler.describe()
    ended_early = trainer.global_step < context.config.training.max_steps
    metrics = _write_metrics(trainer, parts, "stopped_early" if ended_early else "finished")
    if parts.distributed.is_global_zero:
        print_results(metrics, parts)
    return float(metrics["val/loss_nats"])


def _stop(trainer: L.Trainer, parts: TrainingParts, stop: Interrupted) -> NoReturn:
    if stop.at_once:
        log.warning(str(_with_resume_hint(f"stopped at once by {stop}", parts)))
    else:
        _write_metrics(trainer, parts, "interrupted")
        log.warning(f"stopped by {stop}{hint_to_resume(parts.context, trainer.global_step)}")
        parts.stop_on_signal.requeue(stop)
    raise SystemExit(stop.exit_code) from None


def _blame_data(error: Exception, parts: TrainingParts) -> None:
    """Raises: FolioError if the tokens were overwritten, or some id has no embedding, which is an IndexError in torch.

    Of a large corpus, only a sample of the ids was checked before.
    """
    try:
        parts.data_integrity.check()
        if isinstance(error, IndexError):
            parts.data_integrity.check_ids()
    except FolioError as fault:
        raise _with_resume_hint(fault, parts) from error


def _blame_callback(error: Exception, parts: TrainingParts) -> None:
    """Raises: FolioError if code of Lightning refused what an optional callback should do, as with an unknown metric.

    A class of the user's keeps its traceback.
    """
    keys = {id(callback): f"callbacks.{name}" for name, callback in parts.optional_by_name().items()}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        key = keys.get(id(frame.f_locals.get("self")))
        is_stock = str(frame.f_globals.get("__name__")).startswith("lightning.pytorch.callbacks.")
        if key and is_stock and frame.f_code.co_name != "load_state_dict" and not isinstance(error, OSError):
            problem = f"{key}: {shown(error)}; correct its arguments, or leave it out with {key}=null"
            raise _with_resume_hint(ConfigError(problem), parts) from error


def _blame_checkpoint(error: Exception, trainer: L.Trainer, parts: TrainingParts) -> None:
    """Raises: FolioError if a resumed run fails before the end of its first step: its checkpoint does not fit it.

    The states of the optimizer, the loops and the generators are read by torch and Lightning, which answer a changed
    one with any error, some of them in the first step.
    """
    if parts.resumed_at is not None and trainer.global_step <= parts.resumed_at and not is_out_of_memory(error):
        raise FolioError(
            f"{parts.last_checkpoint} cannot be resumed ({type(error).__name__}: {shown(error)}); it is damaged, or of "
            "another model or optimizer than its config says: use another checkpoint, or start a new run"
        ) from error


def _write_metrics(trainer: L.Trainer, parts: TrainingParts, status: str) -> dict[str, Any]:
    metrics = final_metrics(status, trainer.global_step, parts)
    if parts.distributed.is_global_zero:
        try:
            write_json(parts.context.folder / "metrics.json", metrics)
        except OSError as error:
            raise _with_resume_hint(f"{explain_os_error(error) or error}; fix this", parts) from error
    for logger in parts.loggers:
        logger.log_results(metrics)
    return metrics


def _with_resume_hint(problem: object, parts: TrainingParts) -> FolioError:
    """Return what ended the run, with the command that resumes it if there is a checkpoint."""
    return FolioError(f"{problem}{_resume_hint(parts.context)}")
