"""Run one job of a sweep, in the main process or in a worker process: isolated, and with its failure recorded."""

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
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
from folio.runtime.startup import fast_imports, prepare_process
from folio.runtime.terminal import NumberedLines, printable
from folio.sweeps.manifest import Manifest, job_status, read_manifest, record_failure, set_status

STOPPING_FILE = ".stopping"
"""Exists in the folder of a sweep that is being stopped: no job starts while it does."""

MAX_ERROR_LENGTH = 500
"""Characters of the one line that a failure leaves in metrics.json; train.log has the whole error."""

MAIN_PROCESS = "FOLIO_SWEEP_PID"
"""Environment variable with the PID of the process that runs the sweep, from which its workers inherit it."""

CHECK_S = 1.0
"""Time between two looks of a worker at whether the main process is alive."""

working = threading.Lock()
"""Held while this worker process runs a job."""


def sweep_aware(task: Callable[[DictConfig], object]) -> Callable[[DictConfig], None]:
    """Run `task` as a job if Hydra started it in a sweep; otherwise run it alone, with errors of one line."""

    @functools.wraps(task)
    def wrapper(cfg: DictConfig) -> None:
        folder = job_folder()
        if folder is None:
            one_line_errors(task)(cfg)
        else:
            run_job(functools.partial(task, cfg), folder, seed=cfg["seed"])

    return wrapper


def run_job(task: Callable[[], object], folder: Path, seed: object) -> None:
    """Run a job and record its status in sweep.json. An error ends the job, but not the sweep.

    If submitit started several processes for one job, only global rank zero prints and records.

    Raises: SystemExit with 128 + n if signal n stopped the job, except in a worker: other jobs run beside it.
    """
    if not rank_from_environment().is_global_zero:
        task()
        return
    if not is_worker():
        _run_job(task, folder, seed)
        return
    init_worker()
    with working:
        if not main_process_is_gone():
            _run_job(task, folder, seed)


def _run_job(task: Callable[[], object], folder: Path, seed: object) -> None:
    sweep, name = folder.parent, folder.name
    if is_in_use(folder):
        print(f"job {name}: skipped, because another process is training in it", flush=True)
        return
    # In this order: either this process sees that the sweep is stopping, or the main process sees the PID.
    set_status(sweep, name, "running", pid=os.getpid())
    if (sweep / STOPPING_FILE).exists():
        set_status(sweep, name, job_status(folder))
        return
    number, n_jobs = job_position(name, read_manifest(sweep))
    with fast_imports():
        import folio.training.run  # noqa: F401
    from folio.sweeps.isolation import free_memory, isolated

    try:
        with isolated():
            if is_worker():
                prepare_process()
                sys.stdout = NumberedLines(sys.stdout, number)
                sys.stderr = NumberedLines(sys.stderr, number)
            print(f"job {number} of {n_jobs}: {name}", flush=True)
            if missing_for_resume(folder):
                clear_folder(folder)
            task()
    except SystemExit:
        if not is_worker():
            raise
    except Exception as error:
        report_failure(folder, error, number, seed)
    finally:
        free_memory()
        set_status(sweep, name, job_status(folder))


def is_worker() -> bool:
    """Return whether another process, the main process of a sweep, started this one to run jobs."""
    return multiprocessing.parent_process() is not None or "Loky" in multiprocessing.current_process().name


def watch_main_process() -> None:
    """Let joblib's workers, which this process will start, watch it from their first moment: see `init_worker`."""
    import joblib  # slow to import, and rarely needed
    from joblib.parallel import LokyBackend

    os.environ[MAIN_PROCESS] = str(os.getpid())
    joblib.register_parallel_backend("loky", functools.partial(LokyBackend, initializer=init_worker))


def main_process_is_gone() -> bool:
    """Return whether the main process of the sweep, which called `watch_main_process`, has died."""
    return os.getppid() != int(os.environ.get(MAIN_PROCESS, os.getppid()))


@functools.cache
def init_worker() -> None:
    """Let signals come from the main process only, and end this process if it dies.

    A terminal sends Ctrl-C to the whole process group. A worker that received it from there and from the main process
    would take it as a second signal, stop at once and save nothing.
    """
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    threading.Thread(target=end_with_main_process, daemon=True).start()


def end_with_main_process() -> None:
    """Wait until the main process is gone; then let the job save and end, and end this process.

    Without this, the worker would take the jobs that are still queued, and then wait for more for ever.
    """
    while not main_process_is_gone():
        time.sleep(CHECK_S)
    if working.locked():
        os.kill(os.getpid(), signal.SIGTERM)
    with working:
        os._exit(128 + signal.SIGTERM)


def job_position(name: str, manifest: Manifest) -> tuple[int, int]:
    """Return the number of a job and the number of all jobs, including those of other commands for this sweep."""
    names = [job["folder"] for job in manifest["jobs"]]
    n_jobs = manifest["search"]["n_trials"] if "search" in manifest else len(names)
    return names.index(name) + 1, max(n_jobs, len(names))


def is_in_use(folder: Path) -> bool:
    """Return whether another process trains in the folder: cluster jobs outlive the main process of their sweep."""
    try:
        with lock_folder(folder, "training in it"):
            return False
    except FileNotFoundError:
        return False
    except FolioError:
        return True


def clear_folder(folder: Path) -> None:
    """Remove the files of an attempt that never wrote a checkpoint, so that its curves do not appear twice."""
    for path in sorted(folder.rglob("*"), reverse=True):  # the contents of a folder before the folder itself
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def report_failure(folder: Path, error: Exception, number: int, seed: object) -> None:
    """Record why a job failed, and print it in one line. For a bug, the traceback goes to train.log.

    A run that diverged has written its own metrics.json, which stays.
    """
    message = describe_error(error)
    where = ""
    if message is None:
        message = printable(f"{type(error).__name__}: {error}".partition("\n")[0])[:MAX_ERROR_LENGTH]
        where = f" (a bug; {folder / 'train.log'} has the traceback)"
        append_to_log(folder, "".join(traceback.format_exception(error)))
    else:
        append_to_log(folder, f"error: {message}\n")
    if job_status(folder) != "diverged":
        record_failure(folder, message, seed, task_overrides())
    print(f"error: job {number}: {message}{where}", file=sys.stderr, flush=True)


def append_to_log(folder: Path, text: str) -> None:
    """Append to train.log. A disk error is ignored: it may be what the text is about."""
    with suppress(OSError), (folder / "train.log").open("a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(text)
