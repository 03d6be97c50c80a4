"""One job of a sweep, in whatever process it runs: its failure is recorded, and nothing of it stays behind."""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig

from folio.cli.compose import job_folder, task_overrides
from folio.cli.errors import describe_error, one_line_errors
from folio.distributed.environment import rank_from_environment
from folio.runs.folders import missing_for_resume
from folio.runtime.errors import FolioError
from folio.runtime.files import lock_folder
from folio.runtime.signals import exit_on_signals
from folio.runtime.startup import fast_imports
from folio.runtime.terminal import NumberedLines, printable
from folio.sweeps import manifest
from folio.sweeps.parallel import become_worker, is_worker, may_begin

LONGEST_ERROR = 500
"""Characters of the line that a failure leaves; the whole is in train.log."""


def part_of_sweep(task: Callable[[DictConfig], object]) -> Callable[[DictConfig], None]:
    """Let `task` run as a job where Hydra started it as one, and with errors of one line where it is alone."""

    @functools.wraps(task)
    def wrapper(cfg: DictConfig) -> None:
        folder = job_folder()
        if folder is None:
            one_line_errors(task)(cfg)
        else:
            run_job(functools.partial(task, cfg), folder, seed=cfg["seed"])

    return wrapper


def run_job(task: Callable[[], object], folder: Path, seed: object) -> None:
    """Run it, and enter in sweep.json what became of it. An error ends the job and not the sweep.

    Of many processes that submitit started for one job, the first says and records what there is to say.

    Raises: SystemExit with 128 + n where signal n stopped the job, except in a worker: other jobs run beside it.
    """
    if not rank_from_environment().is_global_zero:
        task()
        return
    sweep, name = folder.parent, folder.name
    if is_worker():
        become_worker()
    if is_in_use(folder):
        print(f"job {name}: another process is training in it, and it is left to that", flush=True)
        return
    manifest.mark(sweep, name, "running", pid=os.getpid())
    if not may_begin(sweep):
        manifest.mark(sweep, name, manifest.status_of(folder))
        return
    number, n_jobs = place_of(name, manifest.read_record(sweep))
    with fast_imports():
        import folio.training.run  # noqa: F401
    from folio.sweeps.isolation import free_memory, isolated

    try:
        with isolated():
            if is_worker():
                exit_on_signals()
                sys.stdout = NumberedLines(sys.stdout, number)
                sys.stderr = NumberedLines(sys.stderr, number)
            print(f"job {number} of {n_jobs}: {name}", flush=True)
            if missing_for_resume(folder):
                clear(folder)
            task()
    except SystemExit:
        if not is_worker():
            raise
    except Exception as error:
        fail(folder, error, number, seed)
    finally:
        free_memory()
        manifest.mark(sweep, name, manifest.status_of(folder))


def place_of(name: str, entry: manifest.Record) -> tuple[int, int]:
    """Which job of how many, those of other commands for the same sweep included."""
    names = [job["folder"] for job in entry["jobs"]]
    n_jobs = entry["search"]["n_trials"] if "search" in entry else len(names)
    return names.index(name) + 1, max(n_jobs, len(names))


def is_in_use(folder: Path) -> bool:
    """Whether another process trains there: jobs on a cluster outlive the process that leads their sweep."""
    try:
        with lock_folder(folder, "training in it"):
            return False
    except FileNotFoundError:
        return False
    except FolioError:
        return True


def clear(folder: Path) -> None:
    """Remove what an attempt left that never came to a checkpoint, so that its curves are not shown twice."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder before the folder
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def fail(folder: Path, error: Exception, number: int, seed: object) -> None:
    """Say it in one line, with the traceback of a bug in train.log; a run that diverged has said so itself."""
    message = describe_error(error)
    where = ""
    if message is None:
        message = printable(f"{type(error).__name__}: {error}".partition("\n")[0])[:LONGEST_ERROR]
        where = f" (a bug; {folder / 'train.log'} has the traceback)"
        append(folder / "train.log", "".join(traceback.format_exception(error)))
    else:
        append(folder / "train.log", f"error: {message}\n")
    if manifest.status_of(folder) != "diverged":
        manifest.record_failure(folder, message, seed, task_overrides())
    print(f"error: job {number}: {message}{where}", file=sys.stderr, flush=True)


def append(file: Path, text: str) -> None:
    """To a log, as far as the disk allows."""
    with suppress(OSError), file.open("a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(text)
