"""Inject random faults into trainings, one after another: python tests/e2e/soak.py --minutes 60

Each training is a small run in real processes. It is resumed until it ends, and then compared bit for bit with an
undisturbed run. Prints a table, and writes it as JSON.
"""

import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from faults import FAULTS, FREQUENT_CHECKPOINTS, SoakError, Training, assert_same, small_disk
from workspace import FAMILIES, TINY_TEXT, Run, Workspace, clean_environment

COMMON = (*FREQUENT_CHECKPOINTS, "training.max_steps=300")
RECIPES: dict[str, tuple[str, ...]] = {
    "decoder, Muon, shuffled": ("optimizer=muon", "data.window_order=shuffled", "logger=csv"),
    "decoder, AdamW, random": ("data.window_order=random", "logger=tensorboard"),
    "encoder, AdamW": (*FAMILIES["masked_lm"], "logger=csv"),
    "encoder-decoder, hidden cache, Muon": (*FAMILIES["hidden_cache"], "optimizer=muon", "logger=csv"),
    "encoder-decoder, cross-attention, SGD": (*FAMILIES["cross_attention"], "optimizer=sgd", "logger=csv"),
}
DISK_BYTES = 32 << 20


@dataclass
class SoakReport:
    """Counts of injected faults and compared runs, and the failures."""

    seed: int
    tried: dict[str, int] = field(default_factory=dict)
    survived: dict[str, int] = field(default_factory=dict)
    runs_compared: int = 0
    runs_equal: int = 0
    checkpoints_read: int = 0
    bytes_lost: int = 0
    minutes: float = 0.0
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        totals = {"faults_tried": sum(self.tried.values()), "faults_survived": sum(self.survived.values())}
        return {**totals, **vars(self)}

    def table(self) -> str:
        rows = [f"{'fault':<45} {'tried':>6} {'survived':>9}"]
        rows += [f"{name:<45} {n:>6} {self.survived.get(name, 0):>9}" for name, n in sorted(self.tried.items())]
        rows.append(f"{'all':<45} {sum(self.tried.values()):>6} {sum(self.survived.values()):>9}")
        rows.append(
            f"{self.runs_equal} of {self.runs_compared} runs ended in the bits of undisturbed runs; "
            f"{self.checkpoints_read} checkpoints read, {self.bytes_lost} bytes lost; "
            f"{self.minutes:.1f} minutes, seed {self.seed}"
        )
        return "\n".join(rows + self.failures)


def new_workspace(folder: Path) -> Workspace:
    folder.mkdir()
    (folder / "tiny.txt").write_text(TINY_TEXT)
    return Workspace(folder, clean_environment())


def read_checkpoints(run_folder: Path, report: SoakReport) -> dict[str, tuple[int, int]]:
    """Return (step, bytes) of each complete checkpoint file. Raises: SoakError if one is damaged."""
    found = {}
    for file in sorted((run_folder / "checkpoints").glob("*.ckpt")):
        try:
            state = torch.load(file, weights_only=True)
            if not all(weight.isfinite().all() for weight in state["state_dict"].values()):
                raise ValueError("a weight is not finite")
        except Exception as error:
            report.bytes_lost += file.stat().st_size
            raise SoakError(f"{file} cannot be read: {error}") from None
        report.checkpoints_read += 1
        found[file.name] = state["global_step"], file.stat().st_size
    return found


def has_new_checkpoint(workspace: Workspace, before: int) -> Callable[[], bool]:
    """Return a condition: a checkpoint newer than `before` exists."""

    def check() -> bool:
        with suppress(FileNotFoundError, IndexError):
            return (workspace.runs()[-1] / "checkpoints" / "last.ckpt").stat().st_mtime_ns != before
        return False

    return check


def last_save(workspace: Workspace) -> int:
    """Return the modification time of the last checkpoint, or 0."""
    runs = workspace.runs()
    file = runs[-1] / "checkpoints" / "last.ckpt" if runs else None
    return file.stat().st_mtime_ns if file is not None and file.is_file() else 0


def inject_fault(
    name: str, workspace: Workspace, recipe: tuple[str, ...], rng: random.Random, report: SoakReport
) -> bool:
    """Start or resume a training and inject one fault. Returns whether the training still finished by itself.

    Raises: SoakError if a promise is broken.
    """
    is_resumed = last_save(workspace) > 0
    before = read_checkpoints(workspace.runs()[-1], report) if is_resumed else {}
    saved_at = last_save(workspace)
    process = workspace.start("train.py", *(("resume=latest",) if is_resumed else recipe))
    training = Training(workspace, process, rng)
    fault = FAULTS[name]
    try:
        if not fault.at_start:
            training.wait_until(has_new_checkpoint(workspace, saved_at))
        is_injected = not training.has_ended
        if is_injected:
            fault.inject(training)
        training.wait_for_end()
    finally:
        if not training.has_ended:
            process.kill()
            training.wait_for_end()
    code, output = process.returncode, "".join(training.lines)
    if is_injected and code != 0:
        report.tried[name] = report.tried.get(name, 0) + 1
    if code not in (0, *fault.exit_codes) or (code != 0 and not is_injected):
        raise SoakError(f"ended with code {code}: {output[-2000:]}")
    if "Traceback" in output:
        raise SoakError(f"a traceback: {output[-2000:]}")
    for run_folder in workspace.runs()[-1:]:
        after = read_checkpoints(run_folder, report)
        for file, (step, n_bytes) in before.items():
            if file not in after or after[file][0] < step:
                report.bytes_lost += n_bytes
                raise SoakError(f"{file} of step {step} is gone")
    return code == 0


def train_through_faults(
    name: str, workspace: Workspace, undisturbed: Run, deadline: float, rng: random.Random, report: SoakReport
) -> None:
    """Resume a training through faults until it finishes, or without faults after the deadline; then compare it."""
    recipe = (*COMMON, *RECIPES[name])
    faults: list[str] = []
    bag: list[str] = []
    try:
        is_finished = False
        while not is_finished and time.monotonic() < deadline:
            bag = bag or rng.sample(sorted(FAULTS), len(FAULTS))  # every fault equally often
            fault, n_before = bag.pop(), sum(report.tried.values())
            is_finished = inject_fault(fault, workspace, recipe, rng, report)
            faults += [fault] * (sum(report.tried.values()) - n_before)
        if not is_finished:
            workspace.must("train.py", *(("resume=latest",) if last_save(workspace) else recipe))
        report.runs_compared += 1
        run = Run(workspace.runs()[-1])
        try:
            assert_same(run, undisturbed, "tensorboard" if "logger=tensorboard" in recipe else "csv")
        except AssertionError as error:
            report.bytes_lost += (run.folder / "checkpoints" / "last.ckpt").stat().st_size
            raise SoakError(f"it ended differently: {error}") from None
        report.runs_equal += 1
    except (AssertionError, SoakError, OSError) as error:
        report.failures.append(
            f"FAILED {name}, after {', '.join(faults) or 'no fault'}, in {workspace.folder}: {error}"
        )
        return
    for fault in faults:
        report.survived[fault] = report.survived.get(fault, 0) + 1


def soak(folder: Path, minutes: float, seed: int, report_file: Path | None = None) -> SoakReport:
    """Inject faults for so many minutes. Runs that failed are kept below `folder` for inspection."""
    report, rng, started = SoakReport(seed), random.Random(seed), time.monotonic()
    deadline = started + 60 * minutes
    undisturbed: dict[str, Run] = {}
    while time.monotonic() < deadline:
        for name, recipe in RECIPES.items():
            if time.monotonic() > deadline:
                break
            if name not in undisturbed:
                own = new_workspace(folder / f"undisturbed-{len(undisturbed)}")
                undisturbed[name] = own.train(*COMMON, *recipe)
            workspace = new_workspace(folder / f"run-{report.runs_compared + len(report.failures)}")
            with ExitStack() as stack:
                if not stack.enter_context(small_disk(workspace.folder / "outputs", DISK_BYTES)):
                    FAULTS.pop("disk full", None)
                n_failures = len(report.failures)
                train_through_faults(name, workspace, undisturbed[name], deadline, rng, report)
                if len(report.failures) > n_failures:  # before its small disk is unmounted
                    shutil.copytree(workspace.folder / "outputs", workspace.folder / "kept", dirs_exist_ok=True)
            if len(report.failures) == n_failures:
                shutil.rmtree(workspace.folder)
            report.minutes = (time.monotonic() - started) / 60
            if report_file is not None:
                report_file.write_text(json.dumps(report.as_json(), indent=2) + "\n")
            print(f"\n{report.table()}", flush=True)
    return report


def main(
    minutes: Annotated[float, typer.Option(help="How long to run, in minutes.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Seed for the choice of faults and moments.")] = None,
    report: Annotated[Path, typer.Option(help="JSON file for the results.")] = Path("soak.json"),
) -> None:
    """Exit with code 1 if a promise is broken."""
    if not (minutes > 0 and math.isfinite(minutes)):
        sys.exit(f"error: --minutes={minutes} must be above 0")
    folder = Path(tempfile.mkdtemp(prefix="folio-soak-"))
    print(f"in {folder}", flush=True)
    result = soak(folder, minutes, random.randrange(10**6) if seed is None else seed, report)
    if result.failures:
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
