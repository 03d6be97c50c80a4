"""How a sweep ends: the table, what failed, and the command to go on."""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from folio.runtime.terminal import printable, python_command
from folio.sweeps import manifest, search


def tell_end(folder: Path, names: Sequence[str], code: int) -> None:
    """Say what became of the jobs `names`. Raises: SystemExit with `code`, or with 2 where they have not all a result.

    A search may have failed trials: it needs one that finished.
    """
    entry = manifest.settle(folder)
    jobs = [job for job in entry["jobs"] if job["folder"] in set(names)]
    if code == 0 and all(is_dry(folder / job["folder"]) for job in jobs):
        return
    report(folder)
    counts = Counter(job["status"] for job in jobs)
    in_words = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    print(f"\nsweep {folder}: {len(jobs)} jobs, {in_words}")
    for job in jobs:
        if job["status"] == "failed":
            error = manifest.metrics_of(folder / job["folder"]).get("error", "")
            print(f"failed: {job['folder']}: {printable(str(error), keep='')}")
    best = search.best_trial(folder, entry) if "search" in entry else None
    if best is not None:
        job, value = best
        print(f"best: {entry['search']['objective']} {value:.4f} of {job['folder']}; it is repeated by")
        print(f"  {python_command()} train.py {shlex.join(job['overrides'])}")
    again = [job for job in jobs if job["status"] not in manifest.DONE]
    good = best is not None if "search" in entry else all(job["status"] in manifest.GOOD for job in jobs)
    if code or (again and not (good and "search" in entry)):
        print(f"go on with: {manifest.resume_hint(folder, python_command())}")
    sys.stdout.flush()
    if code or not good:
        raise SystemExit(code or 2)


def is_dry(job_folder: Path) -> bool:
    """Whether a job stopped after its preflight, as dry_run=true wants."""
    return (job_folder / "preflight.json").exists() and manifest.status_of(job_folder) == "missing"


def report(folder: Path) -> None:
    """A table in the terminal, and files beside sweep.json. Trouble with them does not undo what was trained."""
    from folio.report import report_sweep  # with matplotlib, which no job needs so early

    try:
        report_sweep(folder)
    except Exception as error:
        print(f"warning: no report: {type(error).__name__}: {error}", flush=True)
