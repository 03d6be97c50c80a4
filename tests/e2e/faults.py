"""Faults that are injected into a training process, and the comparison of its run with an undisturbed one."""

import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from workspace import TINY, Run, Workspace

FREQUENT_CHECKPOINTS = (
    *TINY,
    "model.dropout=0.1",
    "model.context_length=32",
    "training.micro_batch_size=4",  # three per step
    "training.validate_every_steps=16",
    "training.checkpoint_every_steps=6",
    "training.log_every_steps=5",
    "callbacks.checkpoint.keep_every_steps=50",
)
"""A run that saves so often that a fault often hits a save, with dropout and accumulation."""

CURVES = ("train/loss_nats", "train/gradient_norm", "val/loss_nats")

TIMEOUT_S = 300.0
"""Time after which a process that has not ended counts as hanging."""


class SoakError(Exception):
    """A promise was broken."""


def training_tokens(workspace: Workspace) -> Path:
    """Return the token file of the training split."""
    (file,) = (workspace.folder / "data" / "text_file").rglob("train.bin")
    return file


@dataclass
class Training:
    """A training process, and what it prints."""

    workspace: Workspace
    process: "subprocess.Popen[str]"
    rng: random.Random
    lines: list[str] = field(default_factory=list)
    """Output of the process, read from a pipe by a thread: a file would suffer from the same full disk."""

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            self.lines.extend(out)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.workspace.runs()[-1]

    @property
    def tokens(self) -> Path:
        return training_tokens(self.workspace)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait_until(self, condition: Callable[[], bool], pause_s: float = 0.01) -> None:
        """Wait until the condition is true or the process ends."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.has_ended and not condition():
            if time.monotonic() > deadline:
                raise SoakError(f"nothing happened in {TIMEOUT_S} s")
            time.sleep(pause_s)

    def wait_randomly(self, longest_s: float = 3.0) -> None:
        """Wait for a random time, or until the process ends."""
        end = time.monotonic() + self.rng.uniform(0.0, longest_s)
        self.wait_until(lambda: time.monotonic() > end)

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait_for_end(self) -> None:
        try:
            self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise SoakError(f"still running {TIMEOUT_S} s after the fault") from None
        self._reader.join()


@dataclass(frozen=True)
class Fault:
    """A way to disturb a training, and the exit codes that it may cause."""

    inject: Callable[[Training], None]
    exit_codes: tuple[int, ...]
    """Allowed exit codes besides 0, with which a training ends by itself."""
    at_start: bool = False
    """Inject before the first step, instead of after a new checkpoint."""


def send(*numbers: signal.Signals, longest_s: float = 3.0) -> Callable[[Training], None]:
    """Return a fault that sends signals: the first at a random moment, the others within a tenth of a second."""

    def inject(training: Training) -> None:
        training.wait_randomly(longest_s)
        training.signal(numbers[0])
        for number in numbers[1:]:
            training.wait_randomly(0.1)
            training.signal(number)

    return inject


def kill_while_saving(training: Training) -> None:
    training.wait_randomly(1.0)
    checkpoints = training.folder / "checkpoints"
    training.wait_until(lambda: any(checkpoints.glob(".*.tmp")), pause_s=0.0)
    training.signal(signal.SIGKILL)


def limit_file_size(training: Training) -> None:
    training.wait_randomly()
    limit = training.rng.randrange(512, 20_000)
    with suppress(ProcessLookupError):
        resource.prlimit(training.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    training.wait_for_end()


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[bool]:
    """Mount a small file system at `folder`, which can be filled. Yields False if this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Take all space that is left on the file system of `folder`, and free it at the end."""
    filler = folder / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        yield
    finally:
        filler.unlink()


def fill_disk(training: Training) -> None:
    training.wait_randomly()
    with full_disk(training.workspace.folder / "outputs"):
        training.wait_for_end()


def replace_checkpoint_folder(training: Training) -> None:
    training.wait_randomly()
    checkpoints = training.folder / "checkpoints"
    moved = checkpoints.with_name("moved")
    checkpoints.rename(moved)
    try:
        checkpoints.touch()
        training.wait_for_end()
    finally:
        if checkpoints.is_dir():  # the training created it again between the two steps above
            shutil.rmtree(checkpoints)
        else:
            checkpoints.unlink()
        moved.rename(checkpoints)


def flip_token_bit(training: Training) -> None:
    training.wait_randomly()
    file = training.tokens
    with file.open("r+b") as writing:
        offset = training.rng.randrange(file.stat().st_size)
        writing.seek(offset)
        (byte,) = writing.read(1)
        writing.seek(offset)
        writing.write(bytes([byte ^ 1 << training.rng.randrange(8)]))
    training.wait_for_end()


def truncate_tokens(training: Training) -> None:
    training.wait_randomly()
    os.truncate(training.tokens, training.rng.randrange(training.tokens.stat().st_size))
    training.wait_for_end()


def replace_tokens(training: Training) -> None:
    training.wait_randomly()
    other = training.tokens.with_name("other")
    other.write_bytes(bytes(training.tokens.stat().st_size))
    other.replace(training.tokens)
    send(signal.SIGKILL)(training)


def pause(training: Training) -> None:
    training.wait_randomly()
    training.signal(signal.SIGSTOP)
    time.sleep(training.rng.uniform(0.0, 1.0))
    training.signal(signal.SIGCONT)
    send(signal.SIGKILL, longest_s=1.0)(training)


def resume_twice(training: Training) -> None:
    folder = training.folder
    training.signal(signal.SIGSTOP)  # so that it is still running when the second process starts
    second = training.workspace.run("train.py", f"resume={folder}")
    training.signal(signal.SIGCONT)
    if "another process is training" not in second.stderr or second.code != 2:
        raise SoakError(f"a second process was not refused: {second.code} {second.stderr}")
    send(signal.SIGKILL, longest_s=1.0)(training)


FAULTS: dict[str, Fault] = {
    "SIGKILL": Fault(send(signal.SIGKILL), (-9,)),
    "SIGKILL while a checkpoint is written": Fault(kill_while_saving, (-9,)),
    "SIGKILL while it starts": Fault(send(signal.SIGKILL, longest_s=10.0), (-9,), at_start=True),
    "SIGTERM": Fault(send(signal.SIGTERM), (143,)),
    # -15: Python was not ready for signals yet
    "SIGTERM while it starts": Fault(send(signal.SIGTERM, longest_s=10.0), (143, -15), at_start=True),
    "Ctrl-C": Fault(send(signal.SIGINT), (130,)),
    "Ctrl-C twice": Fault(send(signal.SIGINT, signal.SIGINT), (130,)),
    "limit on file size": Fault(limit_file_size, (2,)),
    "disk full": Fault(fill_disk, (2,)),
    "checkpoint folder replaced by a file": Fault(replace_checkpoint_folder, (2,)),
    "one bit of the tokens flipped": Fault(flip_token_bit, (2,)),
    "tokens truncated": Fault(truncate_tokens, (2, -7)),  # -7: SIGBUS, in the microseconds of docs/reliability.md
    "tokens replaced, then SIGKILL": Fault(replace_tokens, (-9,)),
    "paused, then SIGKILL": Fault(pause, (-9,)),
    "resumed by a second process, then SIGKILL": Fault(resume_twice, (-9,)),
}


def assert_same(killed: Run, undisturbed: Run, logger: str = "csv") -> None:
    """Compare weights, optimizer, random states, metrics, curves and samples."""
    for name in ("last", "best", "step=50", "step=200"):
        mine, other = killed.checkpoint(name), undisturbed.checkpoint(name)
        for part in ("state_dict", "optimizer_states", "global_step"):
            assert_equal(mine[part], other[part], f"{name}.{part}")
        for part in ("rng", "train_means", "val", "gradients"):
            assert_equal(mine["folio"][part], other["folio"][part], f"{name}.folio.{part}")
    assert killed.results == undisturbed.results
    for tag in CURVES:
        assert killed.curve(tag, logger) == undisturbed.curve(tag, logger), tag
    assert killed.samples == undisturbed.samples
    assert not list(killed.folder.rglob("*.tmp"))


def assert_equal(mine: object, other: object, where: str) -> None:
    if isinstance(mine, torch.Tensor):
        assert isinstance(other, torch.Tensor), where
        assert torch.equal(mine, other), where
    elif isinstance(mine, dict):
        assert isinstance(other, dict), where
        assert mine.keys() == other.keys(), where
        for key in mine:
            assert_equal(mine[key], other[key], f"{where}.{key}")
    elif isinstance(mine, list | tuple):
        assert isinstance(other, list | tuple), where
        assert len(mine) == len(other), where
        for number, (one, two) in enumerate(zip(mine, other, strict=True)):
            assert_equal(one, two, f"{where}[{number}]")
    else:
        assert mine == other, where
