"""What the process that leads a sweep does: run what is left, whatever becomes of single jobs, and say how it ended."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from folio.config.hparams_search import SearchConfig
from folio.runtime.errors import FolioError
from folio.runtime.files import lock_folder
from folio.sweeps import manifest, search
from folio.sweeps.parallel import Stop, signals_to_workers
from folio.sweeps.planning import Job
from folio.sweeps.summary import tell_end

Launch = Callable[[Sequence[Job]], None]
"""Runs jobs, each by `folio.sweeps.worker.run_job`, and returns when all have ended."""


def led(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes from leading the same sweep. Raises: FolioError where one does already."""
    return lock_folder(folder, f"running the sweep {folder}")


def lead_grid(folder: Path, jobs: Sequence[Job], command: Sequence[str], launch: Launch, n_at_once: int) -> None:
    """Run those of the jobs that are not done.

    Raises: SystemExit with 2 where one has no result, with 128 + n at signal n.
    """
    with led(folder):
        jobs = manifest.with_known_names(folder, jobs)
        manifest.add_jobs(folder, jobs, command)
        if "search" in manifest.read_record(folder):
            raise FolioError(f"sweep={folder} is a search; add hparams_search=optuna, or start a new sweep")
        manifest.settle(folder)
        left = to_run(folder, jobs)
        if len(left) < len(jobs):
            print(f"{len(jobs) - len(left)} of {len(jobs)} jobs in {folder} are done; {len(left)} to run", flush=True)
        else:
            print(f"{len(jobs)} jobs in {folder}", flush=True)
        code = until_signal(folder, lambda stop: launch_all(folder, left, launch, stop, n_at_once), n_at_once)
        tell_end(folder, [job.folder for job in jobs], code)


def lead_search(
    folder: Path,
    config: SearchConfig,
    space: Sequence[search.Dimension],
    fixed: Sequence[str],
    seed: int,
    command: Sequence[str],
    launch: Launch,
    n_at_once: int,
) -> None:
    """Run trials until there are as many as the config wants; first those that were begun and not ended.

    Raises: SystemExit with 2 where none has finished, with 128 + n at signal n.
    """
    search.check_space(space)
    with led(folder):
        manifest.add_jobs(folder, (), command)
        search.begin(folder, config, space, seed)

        def run_trials(stop: Stop) -> None:
            entry = manifest.settle(folder)
            begun = [
                search.begun_trial(job, space, fixed)
                for job in jobs_of(entry)
                if manifest.status_of(folder / job.folder) in ("missing", "interrupted")
            ]
            n_there = len(entry["jobs"])
            print(f"{max(0, config.n_trials - n_there + len(begun))} trials to run in {folder}", flush=True)
            while stop.number is None and (begun or n_there < config.n_trials):
                batch, begun = begun[:n_at_once], begun[n_at_once:]
                if not batch:
                    batch = search.proposals(folder, min(n_at_once, config.n_trials - n_there), fixed)
                    manifest.add_jobs(folder, batch, command)
                    n_there += len(batch)
                launch_all(folder, batch, launch, stop, n_at_once)
                check_trials(folder, config)

        code = until_signal(folder, run_trials, n_at_once)
        tell_end(folder, [job.folder for job in jobs_of(manifest.read_record(folder))], code)


def jobs_of(entry: manifest.Record) -> list[Job]:
    return [Job(job["folder"], tuple(job["overrides"]), job.get("trial")) for job in entry["jobs"]]


def to_run(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """Those whose result another start would bring or change."""
    return [job for job in jobs if manifest.status_of(folder / job.folder) not in manifest.DONE]


HOPELESS_FAILURES = 5
"""A search whose first trials fail, as many as these, and of which none finished, is mistaken."""


def check_trials(folder: Path, config: SearchConfig) -> None:
    """Raises: FolioError where going on makes no sense: no trial can finish, or none has the objective."""
    entry = manifest.read_record(folder)
    statuses = [manifest.status_of(folder / job["folder"]) for job in entry["jobs"]]
    if len(statuses) >= HOPELESS_FAILURES and set(statuses) == {"failed"}:
        error = manifest.metrics_of(folder / entry["jobs"][-1]["folder"])["error"]
        raise FolioError(f"the first {len(statuses)} trials of the search have all failed, the last with: {error}")
    for job, status in zip(entry["jobs"], statuses, strict=True):
        if status == "finished" and search.value_of(folder / job["folder"], config.objective) is None:
            raise FolioError(
                f"hparams_search.objective={config.objective}: {folder / job['folder']} has no such figure; for "
                "objective=masked_lm it is val/loss_nats"
            )


def until_signal(folder: Path, work: Callable[[Stop], None], n_at_once: int) -> int:
    """Do the work. Returns: 0, or 128 + n where signal n ended it."""
    try:
        if n_at_once == 1:
            work(Stop())
            return 0
        with signals_to_workers(folder) as stop:
            work(stop)
        return 0 if stop.number is None else 128 + stop.number
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        manifest.settle(folder)


def launch_all(folder: Path, jobs: Sequence[Job], launch: Launch, stop: Stop, n_at_once: int) -> None:
    """Run the jobs, and the rest of them also where a worker is killed, as by a system without memory.

    Its death takes the jobs beside it along. They are tried again, each alone, which shows whose fault it was.
    """
    if not jobs:
        return
    if n_at_once == 1:
        launch(jobs)
        return
    try:
        launch(jobs)
    except Exception as error:
        if stop.number is not None:
            return
        print(f"a job was killed ({type(error).__name__}); those beside it are tried again, one at a time", flush=True)
        running = {entry["folder"] for entry in manifest.read_record(folder)["jobs"] if entry["status"] == "running"}
        for job in [job for job in jobs if job.folder in running]:
            launch_alone(folder, job, launch, stop)
        rest = [job for job in to_run(folder, jobs) if manifest.status_of(folder / job.folder) != "failed"]
        if len(rest) == len(jobs):
            raise  # it was none of the jobs
        launch_all(folder, rest, launch, stop, n_at_once)


def launch_alone(folder: Path, job: Job, launch: Launch, stop: Stop) -> None:
    if stop.number is not None:
        return
    try:
        launch([job])
    except Exception as error:
        if stop.number is None:
            reason = f"its process was killed, which a system does that runs out of memory ({type(error).__name__})"
            seeds = [word.partition("=")[2] for word in job.overrides if word.startswith("seed=")]
            seed = int(seeds[-1]) if seeds and seeds[-1].isdecimal() else None
            manifest.record_failure(folder / job.folder, reason, seed, job.overrides)
