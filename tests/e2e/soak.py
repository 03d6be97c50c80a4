"""Faults at random, one after another, for as long as it is told: python tests/e2e/soak.py --minutes 60

Small trainings in real processes, each brought to its end through whatever happens, and compared bit for bit with one
that nobody touched. Prints a table, and writes it as JSON.
"""

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from test_pulled_plug import assert_same
from workspace import FAMILIES, TINY, TINY_TEXT, Run, Workspace

COMMON = (
    *TINY,
    "model.dropout=0.1",
    "model.context_length=32",
    "training.max_steps=300",
    "training.micro_batch_size=4",  # three to a step
    "training.validate_every_steps=16",
    "training.checkpoint_every_steps=6",
    "training.log_every_steps=5",
    "callbacks.checkpoint.keep_every_steps=50",
)
RECIPES: dict[str, tuple[str, ...]] = {
    "decoder, Muon, shuffled": ("optimizer=muon", "data.window_order=shuffled", "logger=csv"),
    "decoder, AdamW, random": ("data.window_order=random", "logger=tensorboard"),
    "encoder, AdamW": (*FAMILIES["masked_lm"], "logger=csv"),
    "encoder-decoder, hidden cache, Muon": (*FAMILIES["hidden_cache"], "optimizer=muon", "logger=csv"),
    "encoder-decoder, cross-attention, SGD": (*FAMILIES["cross_attention"], "optimizer=sgd", "logger=csv"),
}
PATIENCE_S = 300.0
"""After which a process that has not ended counts as hanging."""
SMALL_DISK_BYTES = 32 << 20


@dataclass
class Training:
    """A process that trains, and what it leaves."""

    workspace: Workspace
    process: "subprocess.Popen[str]"
    moment: random.Random
    said: list[str] = field(default_factory=list)
    """By a pipe and a thread: a file would be met by the same full disk."""

    def __post_init__(self) -> None:
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            self.said.extend(out)

    @property
    def folder(self) -> Path:
        return self.workspace.runs()[-1]

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def wait_until(self, come: Callable[[], bool], pause_s: float = 0.01) -> None:
        """Until it has come, or the process is over."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_over and not come():
            if time.monotonic() > deadline:
                raise Failure(f"nothing came in {PATIENCE_S} s")
            time.sleep(pause_s)

    def any_moment(self, longest_s: float = 3.0) -> None:
        """Let a random time pass, unless the process ends before."""
        end = time.monotonic() + self.moment.uniform(0.0, longest_s)
        self.wait_until(lambda: time.monotonic() > end)

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def end(self) -> None:
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"still running {PATIENCE_S} s after the fault") from None
        self._listener.join()


class Failure(Exception):  # noqa: N818 (what was looked for)
    """A promise was broken."""


@dataclass(frozen=True)
class Fault:
    """What is done to a training, and with which codes it may end besides 0, which is its own end."""

    do: Callable[[Training], None]
    codes: tuple[int, ...]
    at_start: bool = False
    """Before the first step instead of after a new checkpoint."""


FAULTS: dict[str, Fault] = {}


def fault(name: str, *codes: int, at_start: bool = False) -> Callable[[Callable[[Training], None]], None]:
    def enter(do: Callable[[Training], None]) -> None:
        FAULTS[name] = Fault(do, codes, at_start)

    return enter


@fault("SIGKILL", -9)
def killed(training: Training) -> None:
    training.any_moment()
    training.signal(signal.SIGKILL)


@fault("SIGKILL while a checkpoint is written", -9)
def killed_while_writing(training: Training) -> None:
    training.any_moment(1.0)
    checkpoints = training.folder / "checkpoints"
    training.wait_until(lambda: any(checkpoints.glob(".*.tmp")), pause_s=0.0)
    training.signal(signal.SIGKILL)


@fault("SIGKILL while it starts", -9, at_start=True)
def killed_at_the_start(training: Training) -> None:
    training.any_moment(10.0)
    training.signal(signal.SIGKILL)


@fault("SIGTERM", 143)
def terminated(training: Training) -> None:
    training.any_moment()
    training.signal(signal.SIGTERM)


@fault("SIGTERM while it starts", 143, -15, at_start=True)  # -15: not even Python was ready
def terminated_at_the_start(training: Training) -> None:
    training.any_moment(10.0)
    training.signal(signal.SIGTERM)


@fault("Ctrl-C", 130)
def interrupted(training: Training) -> None:
    training.any_moment()
    training.signal(signal.SIGINT)


@fault("Ctrl-C twice", 130)
def interrupted_twice(training: Training) -> None:
    training.any_moment()
    training.signal(signal.SIGINT)
    training.any_moment(0.1)
    training.signal(signal.SIGINT)


@fault("limit of the size of files", 2)
def limited(training: Training) -> None:
    training.any_moment()
    limit = training.moment.randrange(512, 20_000)
    with suppress(ProcessLookupError):
        resource.prlimit(training.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    training.end()


@fault("disk full", 2)
def filled(training: Training) -> None:
    training.any_moment()
    filler = training.workspace.folder / "outputs" / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        training.end()
    finally:
        filler.unlink()


@fault("checkpoint folder gone, a file in its place", 2)
def displaced(training: Training) -> None:
    training.any_moment()
    checkpoints = training.folder / "checkpoints"
    away = checkpoints.with_name("away")
    checkpoints.rename(away)
    try:
        checkpoints.touch()
        training.end()
    finally:
        if checkpoints.is_dir():  # it was made again between the two steps above
            shutil.rmtree(checkpoints)
        else:
            checkpoints.unlink()
        away.rename(checkpoints)


@fault("a byte of the tokens altered", 2)
def altered(training: Training) -> None:
    training.any_moment()
    file = tokens_of(training)
    with file.open("r+b") as writing:
        place = training.moment.randrange(file.stat().st_size)
        writing.seek(place)
        (byte,) = writing.read(1)
        writing.seek(place)
        writing.write(bytes([byte ^ 1 << training.moment.randrange(8)]))
    training.end()


@fault("tokens cut short", 2, -7)  # -7: SIGBUS, in the microseconds that docs/reliability.md names
def cut_short(training: Training) -> None:
    training.any_moment()
    file = tokens_of(training)
    os.truncate(file, training.moment.randrange(file.stat().st_size))
    training.end()


@fault("tokens replaced by others, then SIGKILL", -9)
def replaced(training: Training) -> None:
    training.any_moment()
    file = tokens_of(training)
    other = file.with_name("other")
    other.write_bytes(bytes(file.stat().st_size))
    other.replace(file)
    training.any_moment()
    training.signal(signal.SIGKILL)


@fault("stopped for a while, then SIGKILL", -9)
def held(training: Training) -> None:
    training.any_moment()
    training.signal(signal.SIGSTOP)
    time.sleep(training.moment.uniform(0.0, 1.0))
    training.signal(signal.SIGCONT)
    training.any_moment(1.0)
    training.signal(signal.SIGKILL)


@fault("resumed by a second process, then SIGKILL", -9)
def contested(training: Training) -> None:
    folder = training.folder
    training.signal(signal.SIGSTOP)  # so that it is there when the second one comes
    second = training.workspace.run("train.py", f"resume={folder}")
    training.signal(signal.SIGCONT)
    if "another process is training" not in second.stderr or second.code != 2:
        raise Failure(f"a second process was not refused: {second.code} {second.stderr}")
    training.any_moment(1.0)
    training.signal(signal.SIGKILL)


def tokens_of(training: Training) -> Path:
    (file,) = (training.workspace.folder / "data" / "text_file").rglob("train.bin")
    return file


@dataclass
class Report:
    """What was tried and what came of it."""

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
            f"{self.runs_equal} of {self.runs_compared} runs ended in the bits of those that nobody touched; "
            f"{self.checkpoints_read} checkpoints read, {self.bytes_lost} bytes lost; "
            f"{self.minutes:.1f} minutes, seed {self.seed}"
        )
        return "\n".join(rows + self.failures)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own at `folder`, which can be filled; False where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def new_workspace(folder: Path) -> Workspace:
    folder.mkdir()
    (folder / "tiny.txt").write_text(TINY_TEXT)
    kept_out = ("FOLIO_", "HYDRA_", "SLURM_", "PYTHONPATH", "COLUMNS", "FORCE_COLOR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(kept_out)}
    return Workspace(folder, environment | {"OMP_NUM_THREADS": "1"})


def sizes(run_folder: Path, report: Report) -> dict[str, tuple[int, int]]:
    """(step, bytes) of each checkpoint that lies there under its final name. Raises: Failure where one is not whole."""
    found = {}
    for file in sorted((run_folder / "checkpoints").glob("*.ckpt")):
        try:
            state = torch.load(file, weights_only=True)
            if not all(weight.isfinite().all() for weight in state["state_dict"].values()):
                raise ValueError("a weight is not finite")
        except Exception as error:
            report.bytes_lost += file.stat().st_size
            raise Failure(f"{file} cannot be read: {error}") from None
        report.checkpoints_read += 1
        found[file.name] = state["global_step"], file.stat().st_size
    return found


def has_new_checkpoint(workspace: Workspace, before: int) -> Callable[[], bool]:
    def come() -> bool:
        with suppress(FileNotFoundError, IndexError):
            return (workspace.runs()[-1] / "checkpoints" / "last.ckpt").stat().st_mtime_ns != before
        return False

    return come


def last_save(workspace: Workspace) -> int:
    runs = workspace.runs()
    file = runs[-1] / "checkpoints" / "last.ckpt" if runs else None
    return file.stat().st_mtime_ns if file is not None and file.is_file() else 0


def try_one(name: str, workspace: Workspace, recipe: tuple[str, ...], moment: random.Random, report: Report) -> bool:
    """Start or resume a training and do one thing to it. Returns whether the training came to its end by itself.

    Raises: Failure where a promise was broken.
    """
    is_begun = last_save(workspace) > 0
    before = sizes(workspace.runs()[-1], report) if is_begun else {}
    saved_at = last_save(workspace)
    process = workspace.start("train.py", *(("resume=latest",) if is_begun else recipe))
    training = Training(workspace, process, moment)
    chosen = FAULTS[name]
    try:
        if not chosen.at_start:
            training.wait_until(has_new_checkpoint(workspace, saved_at))
        is_tried = not training.is_over
        if is_tried:
            chosen.do(training)
        training.end()
    finally:
        if not training.is_over:
            process.kill()
            training.end()
    code, said = process.returncode, "".join(training.said)
    if is_tried and code != 0:
        report.tried[name] = report.tried.get(name, 0) + 1
    if code not in (0, *chosen.codes) or (code != 0 and not is_tried):
        raise Failure(f"ended with code {code}: {said[-2000:]}")
    if "Traceback" in said:
        raise Failure(f"a traceback: {said[-2000:]}")
    for run_folder in workspace.runs()[-1:]:
        after = sizes(run_folder, report)
        for file, (step, n_bytes) in before.items():
            if file not in after or after[file][0] < step:
                report.bytes_lost += n_bytes
                raise Failure(f"{file} of step {step} is gone")
    return code == 0


def bring_to_its_end(
    words: str, workspace: Workspace, straight: Run, deadline: float, moment: random.Random, report: Report
) -> None:
    """One training through faults until it ends, or the time does; then to its end undisturbed, and compared."""
    faults: list[str] = []
    bag: list[str] = []
    try:
        is_over = False
        while not is_over and time.monotonic() < deadline:
            bag = bag or moment.sample(sorted(FAULTS), len(FAULTS))  # each as often as any other
            name, n_before = bag.pop(), sum(report.tried.values())
            is_over = try_one(name, workspace, (*COMMON, *RECIPES[words]), moment, report)
            faults += [name] * (sum(report.tried.values()) - n_before)
        if not is_over:
            workspace.must("train.py", *(("resume=latest",) if last_save(workspace) else (*COMMON, *RECIPES[words])))
        report.runs_compared += 1
        run = Run(workspace.runs()[-1])
        try:
            assert_same(run, straight, "tensorboard" if "logger=tensorboard" in RECIPES[words] else "csv")
        except AssertionError as error:
            report.bytes_lost += (run.folder / "checkpoints" / "last.ckpt").stat().st_size
            raise Failure(f"the end is another: {error}") from None
        report.runs_equal += 1
    except (AssertionError, Failure, OSError) as error:
        report.failures.append(
            f"FAILED {words}, after {', '.join(faults) or 'no fault'}, in {workspace.folder}: {error}"
        )
        return
    for name in faults:
        report.survived[name] = report.survived.get(name, 0) + 1


def soak(folder: Path, minutes: float, seed: int, report_file: Path | None = None) -> Report:
    """Try faults below `folder` for so long; what failed stays there to be looked at."""
    report, moment, started = Report(seed), random.Random(seed), time.monotonic()
    deadline = started + 60 * minutes
    straight: dict[str, Run] = {}
    while time.monotonic() < deadline:
        for words, recipe in RECIPES.items():
            if time.monotonic() > deadline:
                break
            if words not in straight:
                untouched = new_workspace(folder / f"untouched-{len(straight)}")
                straight[words] = untouched.train(*COMMON, *recipe)
            workspace = new_workspace(folder / f"run-{report.runs_compared + len(report.failures)}")
            with ExitStack() as stack:
                if not stack.enter_context(small_disk(workspace.folder / "outputs")):
                    FAULTS.pop("disk full", None)
                n_failures = len(report.failures)
                bring_to_its_end(words, workspace, straight[words], deadline, moment, report)
                if len(report.failures) > n_failures:  # before its small disk goes
                    shutil.copytree(workspace.folder / "outputs", workspace.folder / "kept", dirs_exist_ok=True)
            if len(report.failures) == n_failures:
                shutil.rmtree(workspace.folder)
            report.minutes = (time.monotonic() - started) / 60
            if report_file is not None:
                report_file.write_text(json.dumps(report.as_json(), indent=2) + "\n")
            print(f"\n{report.table()}", flush=True)
    return report


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Of the choice of faults and moments.")] = None,
    report: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("soak.json"),
) -> None:
    """Ends with code 1 where a promise was broken."""
    if not (minutes > 0 and math.isfinite(minutes)):
        sys.exit(f"error: --minutes={minutes} must be above 0")
    folder = Path(tempfile.mkdtemp(prefix="folio-soak-"))
    print(f"in {folder}", flush=True)
    done = soak(folder, minutes, random.randrange(10**6) if seed is None else seed, report)
    if done.failures:
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
