"""Starts the processes of one machine, watches over them, and tells what became of them.

Lightning's own launcher types the command line again for each process. In a sweep each of them would start the sweep
anew, and when one is killed it kills the first, and with it everybody who could say so. Here the process that a person
started trains nothing: it hands the checked config to processes that torch.multiprocessing starts, and stays to listen
to signals and to notice who is missing. torchrun and srun do the same on a cluster, and need none of this.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.multiprocessing.spawn import start_processes

from folio.config import RunConfig
from folio.data.prepared import PreparedData
from folio.errors import FolioError
from folio.numbered_lines import NumberedLines, number_of_job
from folio.processes import Place, silence
from folio.training.devices import Device
from folio.training.preflight import Preflight
from folio.training.stopping import Interrupted, requeue, stop_signals

if TYPE_CHECKING:
    from folio.training.run import Occasion

GRACE_S = 10.0
"""What the others have to end by themselves, once one has failed. They cannot go on, and may be waiting for it."""

LAST_WORDS = 20_000
"""Characters of a traceback, so that it fits into a pipe that nobody reads before its process has ended."""


@dataclass(frozen=True)
class Task:
    """What a process needs to train: the config is checked, the folder is made, and the data are prepared."""

    config: RunConfig
    device: Device
    folder: Path
    figures: Preflight
    resumed: bool
    occasion: "Occasion"
    open_data: Callable[[], PreparedData]
    """Maps what is prepared; arrays themselves would be copied."""
    port: int
    job: int | None = None
    """The number that a sweep puts before each line, where it runs jobs side by side."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended, in its own words."""

    how: Literal["finished", "stopped", "refused", "failed"]
    value: Any
    """Of finished: the final validation loss, or None; refused: the line for the user; failed: the traceback."""


class RankDied(FolioError):  # noqa: N818 (what happened to the run)
    """A process was killed, and took the run with it."""


def train_in_processes(task: Task) -> float | None:
    """Train on trainer.devices processes of this machine; returns what `folio.training.run.run` does.

    Raises: SystemExit with 128 + n as that does, and Interrupted where a second signal stopped the run; FolioError
    for what a user can mend, RankDied where a process was killed, RuntimeError with its traceback where one failed.
    """
    return Processes(replace(task, job=number_of_job(sys.stdout))).outcome()


class Processes:
    """The processes of one machine, from their start to their end."""

    def __init__(self, task: Task) -> None:
        self._size = task.config.trainer.devices
        self._others_follow = task.occasion.others_follow
        context = get_context("spawn")
        self._asked_to_stop = context.Value("i", 0, lock=False)
        """The number of the signal."""
        pipes = [context.Pipe(duplex=False) for _ in range(self._size)]
        self._mouths = [mouth for mouth, _ in pipes]
        self._outcomes: dict[int, Outcome] = {}
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in stop_signals()}
        # Ignored while the processes start, which inherit that: a signal is for this one alone, and it tells them.
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        args = (task, self._asked_to_stop, [ear for _, ear in pipes])
        with spawning():
            started = start_processes(_train_as_rank, args, nprocs=self._size, join=False, start_method="spawn")
        self._processes: list[BaseProcess] = started.processes
        for _, ear in pipes:
            ear.close()  # so that what a killed process leaves half-said has an end
        for number in self._before:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        if self._asked_to_stop.value:
            raise Interrupted(number, at_once=True)
        self._asked_to_stop.value = number
        os.write(2, b"stopping after this step; once more stops at once\n")

    def outcome(self) -> float | None:
        """Wait for the end; see `train_in_processes`."""
        try:
            self._wait()
        finally:
            self._kill()
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._raise_failures()
        first = self._outcomes[0]
        if first.how == "stopped":
            requeue(self._asked_to_stop.value, self._before.get(self._asked_to_stop.value))
            raise SystemExit(first.value)
        if self._others_follow and self._asked_to_stop.value:
            raise SystemExit(128 + self._asked_to_stop.value)
        return None if first.value is None else float(first.value)

    def _wait(self) -> None:
        """Until all have ended, or GRACE_S after the first of them that failed."""
        waiting: dict[Any, BaseProcess] = {process.sentinel: process for process in self._processes}
        deadline: float | None = None
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ended = connection.wait(list(waiting), timeout=left)
            if not ended:
                return
            for sentinel in ended:
                process = waiting.pop(sentinel)
                process.join()
                self._listen(self._processes.index(process))
                if process.exitcode != 0 and deadline is None:
                    deadline = time.monotonic() + GRACE_S

    def _listen(self, rank: int) -> None:
        mouth = self._mouths[rank]
        try:
            if mouth.poll():
                self._outcomes[rank] = mouth.recv()
        except (EOFError, OSError):  # killed before, or in the middle of, its last words
            pass

    def _kill(self) -> None:
        self._left = [rank for rank, process in enumerate(self._processes) if process.is_alive()]
        for rank in self._left:
            self._processes[rank].kill()
            self._processes[rank].join()

    def _raise_failures(self) -> None:
        """Raises: what tells most about why not all processes came to the end."""
        told = [self._outcomes[rank] for rank in sorted(self._outcomes)]
        refused = next((outcome.value for outcome in told if outcome.how == "refused"), None)
        if refused is not None:
            raise FolioError(refused)
        for rank, process in enumerate(self._processes):
            if rank in self._outcomes or rank in self._left or process.exitcode is None:
                continue
            if process.exitcode < 0:
                name = signal.Signals(-process.exitcode).name
                hint = ", as the system does where memory is exhausted" if name == "SIGKILL" else ""
                raise RankDied(f"process {rank} of {self._size} was killed by {name}{hint}; the others were ended")
            raise RankDied(f"process {rank} of {self._size} ended with exit code {process.exitcode} and no word")
        failed = next((outcome.value for outcome in told if outcome.how == "failed"), None)
        if failed is not None:
            raise RuntimeError(f"a process failed:\n{failed}")


@contextmanager
def spawning() -> Iterator[None]:
    """Let processes that are started here take spawn for the usual way, as they take over what this one does.

    That of a job of hydra/launcher=joblib is loky's, which they could not find.
    """
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def _train_as_rank(rank: int, task: Task, asked_to_stop: Any, ears: list[Connection]) -> None:
    """The life of one process."""
    threading.Thread(target=_end_with_parent, daemon=True, name="end-with-parent").start()
    if rank > 0:
        silence()
    if task.job is not None:
        sys.stdout, sys.stderr = NumberedLines(sys.stdout, task.job), NumberedLines(sys.stderr, task.job)
    if task.device.n_threads:
        torch.set_num_threads(task.device.n_threads)
    outcome = _outcome(rank, task, asked_to_stop)
    ears[rank].send(outcome)
    if outcome.how in ("refused", "failed"):
        # At once: what is left of the connections could wait for the others.
        os._exit(1)


def _end_with_parent() -> None:
    """A process whose parent was killed must not train on: nobody could stop it, and the run may be resumed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _outcome(rank: int, task: Task, asked_to_stop: Any) -> Outcome:
    from folio.training.run import train  # not above, because that module starts this one
    from folio.training.strategies import meet

    place = Place(rank, task.config.trainer.devices, rank, task.config.trainer.devices, "train.py")
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(task.port),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(place.size),
    }
    try:
        world = meet(place, task.device.accelerator)
        data = task.open_data()
        loss = train(
            task.config,
            data,
            task.device,
            task.folder,
            task.figures,
            task.resumed,
            task.occasion,
            world,
            lambda: asked_to_stop.value,
        )
        world.leave()
        return Outcome("finished", loss)
    except SystemExit as stop:
        world.leave()
        return Outcome("stopped", stop.code)
    except FolioError as error:
        return Outcome("refused", str(error))
    except Exception:
        return Outcome("failed", traceback.format_exc()[-LAST_WORDS:])


def free_port() -> int:
    """One that nobody listens at right now."""
    return int(find_free_network_port())
