"""How a sweep ends: the table, what failed, and the command to go on."""

import importlib
import importlib.util
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from folio.interpreter import python_command
from folio.sweeps import record, search
from folio.visible import visible

WIDEST = 1000
"""Columns of the table, at most."""


def tell_end(folder: Path, names: Sequence[str], code: int) -> None:
    """Say what became of the jobs `names`. Raises: SystemExit with `code`, or with 2 where they have not all a result.

    A search may have failed trials: it needs one that finished.
    """
    entry = record.settle(folder)
    jobs = [job for job in entry["jobs"] if job["folder"] in set(names)]
    if code == 0 and all(is_dry(folder / job["folder"]) for job in jobs):
        return
    report(folder)
    counts = Counter(job["status"] for job in jobs)
    in_words = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    print(f"\nsweep {folder}: {len(jobs)} jobs, {in_words}")
    for job in jobs:
        if job["status"] == "failed":
            error = record.metrics_of(folder / job["folder"]).get("error", "")
            print(f"failed: {job['folder']}: {visible(str(error), keep='')}")
    best = search.best_trial(folder, entry) if "search" in entry else None
    if best is not None:
        job, value = best
        print(f"best: {entry['search']['objective']} {value:.4f} of {job['folder']}; it is repeated by")
        print(f"  {python_command()} train.py {shlex.join(job['overrides'])}")
    again = [job for job in jobs if job["status"] not in record.DONE]
    good = best is not None if "search" in entry else all(job["status"] in record.GOOD for job in jobs)
    if code or (again and not (good and "search" in entry)):
        print(f"go on with: {record.way_on(folder, python_command())}")
    sys.stdout.flush()
    if code or not good:
        raise SystemExit(code or 2)


def is_dry(job_folder: Path) -> bool:
    """Whether a job stopped after its preflight, as dry_run=true wants."""
    return (job_folder / "preflight.json").exists() and record.status_of(job_folder) == "missing"


def report(folder: Path) -> None:
    """A table in the terminal, and files beside sweep.json. Trouble with them does not undo what was trained."""
    if importlib.util.find_spec("folio.report") is None:
        print_table(folder)
        return
    try:
        importlib.import_module("folio.report").report_sweep(folder)
    except Exception as error:
        print(f"warning: no report: {type(error).__name__}: {error}", flush=True)


def print_table(folder: Path) -> None:
    """Job, status, loss, bits per byte, speed and time."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("job", no_wrap=True)
    table.add_column("status")
    for heading in ("val/loss_nats", "val/bits_per_byte", "tokens/s", "seconds"):
        table.add_column(heading, justify="right")
    for job in record.read_record(folder)["jobs"]:
        metrics = record.metrics_of(folder / job["folder"])
        cells = [
            _number(metrics.get("val/loss_nats"), ".4f"),
            _number(metrics.get("val/bits_per_byte"), ".4f"),
            _number(metrics.get("train/tokens_per_s"), ",.0f"),
            _number(metrics.get("elapsed_s"), ",.0f"),
        ]
        table.add_row(job["folder"], job["status"], *cells)
    print()
    # As wide as it is: a terminal wraps what it must, and a file holds whole lines.
    Console(width=WIDEST, highlight=False).print(table)


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""
