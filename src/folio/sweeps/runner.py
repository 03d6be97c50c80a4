"""Run a sweep from its main process: launch the jobs that have no result, stop on signals, print a summary."""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from folio.config.hparams_search import SearchConfig
from folio.config.stored_words import check_words
from folio.runs.folders import COMPLETED
from folio.runtime import commands
from folio.runtime.errors import FolioError
from folio.runtime.files import lock_folder
from folio.runtime.signals import SCHEDULER_WARNINGS, stop_signals
from folio.runtime.streams import write_to_stderr
from folio.runtime.terminal import printable
from folio.sweeps import search
from folio.sweeps.manifest import (
    DONE,
    SUCCESSFUL,
    add_jobs,
    check_kind,
    create_manifest,
    job_status,
    listed_jobs,
    read_manifest,
    read_metrics,
    record_failure,
    refresh_statuses,
)
from folio.sweeps.planning import Grid, Job
from folio.sweeps.replay import resume_sweep_command
from folio.sweeps.worker import STOPPING_FILE, watch_main_process

Launch = Callable[[Sequence[Job]], None]
"""Runs jobs, each by `folio.sweeps.worker.run_job`, and returns when all have ended."""

MAX_PRINTED = 50
"""Number of jobs that a dry run lists by name."""

MAX_INITIAL_FAILURES = 5
"""A search ends if this many trials have ended and all of them failed."""


class StopRequest:
    """The signal that the main process received, if any."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


def run_grid(folder: Path, grid: Grid, command: Sequence[str], launch: Launch, n_parallel: int) -> None:
    """Run the jobs of a grid that have no result yet.

    Raises: SystemExit with 2 if a job has no result at the end, or with 128 + n after signal n.
    """
    with lock_folder(folder, f"running the sweep {folder}"):
        create_manifest(folder, command)
        check_kind(folder, is_search=False)
        add_jobs(folder, grid.jobs, grid.varied)
        refresh_statuses(folder)
        pending = pending_jobs(folder, grid.jobs)
        if n_done := len(grid.jobs) - len(pending):
            print(f"{n_done} of {len(grid.jobs)} jobs in {folder} are done; {len(pending)} to run", flush=True)
        else:
            print(f"{len(grid.jobs)} jobs in {folder}", flush=True)

        def run_jobs(stop: StopRequest) -> None:
            for job in pending:
                if job.folder in grid.errors:
                    record_failure(folder / job.folder, grid.errors[job.folder], seed_of(job), job.overrides)
            jobs = [job for job in pending if job.folder not in grid.errors]
            launch_jobs(folder, jobs, launch, stop, n_parallel)

        code = run_until_signal(folder, run_jobs, n_parallel)
        print_summary(folder, [job.folder for job in grid.jobs], code)


def run_search(
    folder: Path,
    config: SearchConfig,
    space: Sequence[search.Dimension],
    fixed: Sequence[str],
    seed: int,
    command: Sequence[str],
    launch: Launch,
    n_parallel: int,
) -> None:
    """Run trials until there are n_trials of them. Those that were started and have not ended come first.

    Raises: SystemExit with 2 if no trial has finished, or with 128 + n after signal n.
    """
    with lock_folder(folder, f"running the sweep {folder}"):
        create_manifest(folder, command)
        search.start_search(folder, config, space, seed)

        def run_trials(stop: StopRequest) -> None:
            n_trials = len(refresh_statuses(folder)["jobs"])
            resumed = [search.resumed_trial(trial, space, fixed) for trial in pending_trials(folder)]
            print(f"{max(0, config.n_trials - n_trials + len(resumed))} trials to run in {folder}", flush=True)
            while not stop and (resumed or n_trials < config.n_trials):
                batch, resumed = resumed[:n_parallel], resumed[n_parallel:]
                if not batch:
                    batch = search.propose_trials(folder, min(n_parallel, config.n_trials - n_trials), fixed)
                    add_jobs(folder, batch)
                    n_trials += len(batch)
                launch_jobs(folder, batch, launch, stop, n_parallel)
                check_trials(folder, config)

        code = run_until_signal(folder, run_trials, n_parallel)
        print_summary(folder, [trial.folder for trial in listed_jobs(read_manifest(folder))], code)


def print_pending(folder: Path, pending: Sequence[Job], n_jobs: int, n_new: int = 0) -> None:
    """Print which jobs of an existing sweep would run, as dry_run=true asks. Nothing is written.

    Args:
        n_new: the number of trials that are not proposed yet.
    """
    n_pending = len(pending) + n_new
    print(f"dry_run=true: {n_pending} of {n_jobs} jobs in {folder} would run, and nothing is written")
    for job in pending[:MAX_PRINTED]:
        print(f"  {job.folder}")
    if n_more := n_pending - len(pending[:MAX_PRINTED]):
        print(f"  and {n_more} {'new trials' if n_new else 'more'}")


def pending_jobs(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that another run would give a result, or a different one."""
    return [job for job in jobs if job_status(folder / job.folder) not in DONE]


def pending_trials(folder: Path) -> list[Job]:
    """Return the trials that were started and have not ended. One that failed is a result."""
    trials = listed_jobs(read_manifest(folder))
    return [trial for trial in trials if job_status(folder / trial.folder) in ("missing", "interrupted")]


def check_trials(folder: Path, config: SearchConfig) -> None:
    """Raises: FolioError if more trials make no sense: all have failed, or they do not have the objective."""
    trials = [folder / trial.folder for trial in listed_jobs(read_manifest(folder))]
    statuses = [job_status(trial) for trial in trials]
    if len(trials) >= MAX_INITIAL_FAILURES and set(statuses) == {"failed"}:
        error = read_metrics(trials[-1])["error"]
        raise FolioError(f"the first {len(trials)} trials of the search have all failed, the last with: {error}")
    for trial, status in zip(trials, statuses, strict=True):
        if status in COMPLETED and search.objective_value(trial, config.objective) is None:
            raise FolioError(
                f"hparams_search.objective={config.objective}: {trial} has no such metric; for objective=masked_lm "
                "use val/loss_nats"
            )


# Launching


def launch_jobs(folder: Path, jobs: Sequence[Job], launch: Launch, stop: StopRequest, n_parallel: int) -> None:
    """Run the jobs, even if a worker process is killed, as by a system that runs out of memory.

    Its death ends the jobs that run beside it. They are retried one at a time, which shows which one is at fault.
    """
    if not jobs:
        return
    if n_parallel == 1:
        launch(jobs)
        return
    try:
        launch(jobs)
    except Exception as error:
        if stop:
            return
        print(f"a job was killed ({type(error).__name__}); retrying those beside it, one at a time", flush=True)
        running = {job["folder"] for job in read_manifest(folder)["jobs"] if job["status"] == "running"}
        for job in jobs:
            if job.folder in running:
                launch_alone(folder, job, launch, stop)
        rest = [job for job in pending_jobs(folder, jobs) if job_status(folder / job.folder) != "failed"]
        if len(rest) == len(jobs):
            raise  # none of the jobs was the cause
        launch_jobs(folder, rest, launch, stop, n_parallel)


def launch_alone(folder: Path, job: Job, launch: Launch, stop: StopRequest) -> None:
    """Run one job, and record it as failed if its process is killed."""
    if stop:
        return
    try:
        launch([job])
    except Exception as error:
        if not stop:
            reason = f"its process was killed, possibly because the system ran out of memory ({type(error).__name__})"
            record_failure(folder / job.folder, reason, seed_of(job), job.overrides)


def seed_of(job: Job) -> int | None:
    """Return the seed among the overrides of a job, if there is one."""
    seeds = [text.partition("=")[2] for text in job.overrides if text.startswith("seed=")]
    return int(seeds[-1]) if seeds and re.fullmatch("[0-9]{1,10}", seeds[-1]) else None


# Signals


def run_until_signal(folder: Path, run: Callable[[StopRequest], None], n_parallel: int) -> int:
    """Call `run` and return the exit code: 0, or 128 + n if signal n ended it."""
    (folder / STOPPING_FILE).unlink(missing_ok=True)  # of a main process that was killed while it stopped
    try:
        if n_parallel == 1:
            run(StopRequest())
            return 0
        watch_main_process()
        with forward_signals(folder) as stop:
            run(stop)
        return 0 if stop.signal_number is None else 128 + stop.signal_number
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        refresh_statuses(folder)


@contextmanager
def forward_signals(sweep: Path) -> Iterator[StopRequest]:
    """Forward SIGINT, SIGTERM and SIGHUP to the running jobs, which save and end. A second signal ends them at once."""
    stop = StopRequest()

    def forward(number: int, frame: FrameType | None) -> None:
        if not stop:
            write_to_stderr(b"stopping the jobs after their current step; a second signal stops them at once\n")
        stop.signal_number = number
        with suppress(OSError):
            (sweep / STOPPING_FILE).touch()
        with suppress(FolioError):
            for job in read_manifest(sweep)["jobs"]:
                if "pid" in job:
                    with suppress(ProcessLookupError):
                        os.kill(job["pid"], number)

    numbers = [number for number in stop_signals() if number not in SCHEDULER_WARNINGS]
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        (sweep / STOPPING_FILE).unlink(missing_ok=True)


# Summary


def print_summary(folder: Path, names: Sequence[str], code: int) -> None:
    """Print the results of the jobs `names`: a table, what failed, the best trial, and how to resume.

    Raises: SystemExit with `code`, or with 2 if a job has no result. A search only needs one trial that finished.
    """
    manifest = refresh_statuses(folder)
    jobs = [job for job in manifest["jobs"] if job["folder"] in set(names)]
    if code == 0 and all(is_dry_run(folder / job["folder"]) for job in jobs):
        return
    report_results(folder)
    counts = Counter(job["status"] for job in jobs)
    print(f"\nsweep {folder}: {len(jobs)} jobs, {', '.join(f'{n} {status}' for status, n in counts.most_common())}")
    for job in jobs:
        if job["status"] == "failed":
            error = read_metrics(folder / job["folder"]).get("error", "")
            print(f"failed: {job['folder']}: {printable(str(error), keep='')}")
    is_search = "search" in manifest
    best = search.best_trial(folder, manifest) if is_search else None
    if best is not None:
        trial, value = best
        print(f"best: {manifest['search']['objective']} {value:.4f} of {trial.folder}")
        if check_words(trial.overrides) is None:
            repeat = commands.command("train.py", *map(commands.quote_for_shell, trial.overrides))
            print(f"to repeat it: {repeat}")
    succeeded = best is not None if is_search else all(job["status"] in SUCCESSFUL for job in jobs)
    has_pending = any(job["status"] not in DONE for job in jobs)
    if code or (has_pending and not (is_search and succeeded)):
        print(f"resume with: {resume_sweep_command(folder)}")
    sys.stdout.flush()
    if code or not succeeded:
        raise SystemExit(code or 2)


def is_dry_run(job_folder: Path) -> bool:
    """Return whether a job stopped after its preflight, as dry_run=true asks."""
    return (job_folder / "preflight.json").exists() and job_status(job_folder) == "missing"


def report_results(folder: Path) -> None:
    """Print a table of the results and write a report beside sweep.json. An error there is only a warning."""
    from folio.report import report_sweep  # imports matplotlib, which no job needs this early

    try:
        report_sweep(folder)
    except Exception as error:
        print(f"warning: no report: {type(error).__name__}: {error}", flush=True)
