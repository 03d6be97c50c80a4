"""Start the processes of one machine, watch them, and report how they ended.

Lightning's own launcher runs the command line again for each process, which in a sweep would start the whole sweep
again. When a process is killed, Lightning also kills rank 0, and nothing is left to report it. Here the process that
the user started trains nothing: it passes a picklable function to processes that torch.multiprocessing starts, handles
signals, and notices when a process dies. On a cluster, torchrun and srun do this.
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
from typing import Any, Literal

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.multiprocessing.spawn import start_processes

from folio.distributed.context import DistributedContext
from folio.distributed.devices import Device
from folio.distributed.environment import RankInfo, silence_stdout
from folio.distributed.strategies import init_distributed
from folio.runtime.errors import FolioError
from folio.runtime.signals import STOP_NOTICE, Interrupted, asks_to_hurry, stop_signals
from folio.runtime.slurm import requeue_job
from folio.runtime.streams import guard_standard_streams, write_to_stderr
from folio.runtime.terminal import NumberedLines, job_number

GRACE_PERIOD_S = 10.0
"""Time that the other processes get to end once one has failed. They may be waiting for it forever."""

MAX_TRACEBACK_CHARACTERS = 20_000
"""Limit that lets a traceback fit into its pipe, which is read only when the process has ended."""

StopRequested = Callable[[], int]
"""Returns the number of the signal that asked the run to stop; 0 if none did."""


@dataclass(frozen=True)
class LaunchSpec:
    """The function to run in the processes of one machine, and its circumstances. Picklable."""

    train: Callable[[DistributedContext, StopRequested], float | None]
    """Function that each process calls. It returns the final validation loss, or None."""
    n_processes: int
    device: Device
    more_jobs_follow: bool
    """Whether the parent process runs more jobs of a sweep afterwards. A signal stops those too."""
    job_number: int | None = None
    """Number at the start of each line of output, if a sweep runs jobs in parallel."""
    port: int = 0
    """Port at which the processes connect to rank 0."""


@dataclass(frozen=True)
class Outcome:
    """The end of a process, as it reports itself."""

    status: Literal["finished", "stopped", "refused", "failed"]
    value: Any
    """finished: the result of `train`; stopped: an exit code; refused: a message for the user; failed: a traceback."""


class RankDied(FolioError):  # noqa: N818 (an event, named like Lightning's own)
    """Raised when a process was killed, which ends the run."""


def train_in_processes(spec: LaunchSpec) -> float | None:
    """Call `spec.train` in each process and return what rank 0 returned.

    Raises: SystemExit with 128 + n if signal n stopped the run; Interrupted if a second signal did; FolioError for
    what the user can fix; RankDied if a process was killed; RuntimeError with its traceback if one failed.
    """
    return Launcher(replace(spec, job_number=job_number(sys.stdout), port=find_free_network_port())).wait()


class Launcher:
    """The processes of one machine, from start to end."""

    def __init__(self, spec: LaunchSpec) -> None:
        self._n_processes = spec.n_processes
        self._more_jobs_follow = spec.more_jobs_follow
        context = get_context("spawn")
        self._stop_signal = context.Value("i", 0, lock=False)
        pipes = [context.Pipe(duplex=False) for _ in range(self._n_processes)]
        self._receivers = [receiver for receiver, _ in pipes]
        senders = [sender for _, sender in pipes]
        self._outcomes: dict[int, Outcome] = {}
        self._previous_handlers: dict[int, Any] = {number: signal.getsignal(number) for number in stop_signals()}
        # The processes inherit that they ignore signals: this process receives a signal and passes it on.
        for number in self._previous_handlers:
            signal.signal(number, signal.SIG_IGN)
        with _spawn_start_method():
            started = start_processes(
                _run_rank,
                (spec, self._stop_signal, senders),
                nprocs=self._n_processes,
                join=False,
                start_method="spawn",
            )
        self._processes: list[BaseProcess] = started.processes
        for sender in senders:
            sender.close()  # so that a message that a killed process left incomplete ends
        for number in self._previous_handlers:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._stop_signal.value:
            if not asks_to_hurry(number):
                return
            raise Interrupted(number, at_once=True)
        self._stop_signal.value = number
        write_to_stderr(STOP_NOTICE)

    def wait(self) -> float | None:
        """Wait for the processes to end, and return what rank 0 returned; see `train_in_processes`."""
        try:
            self._wait_for_processes()
        finally:
            self._kill()
            for number, handler in self._previous_handlers.items():
                signal.signal(number, handler)
        self._raise_failures()
        first = self._outcomes[0]
        if first.status == "stopped":
            requeue_job(self._stop_signal.value, self._previous_handlers.get(self._stop_signal.value))
            raise SystemExit(first.value)
        if self._more_jobs_follow and self._stop_signal.value:
            raise SystemExit(128 + self._stop_signal.value)
        return None if first.value is None else float(first.value)

    def _wait_for_processes(self) -> None:
        """Wait until all processes have ended, or GRACE_PERIOD_S after the first one that failed."""
        waiting: dict[Any, BaseProcess] = {process.sentinel: process for process in self._processes}
        deadline: float | None = None
        while waiting:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            ended = connection.wait(list(waiting), timeout=remaining)
            if not ended:
                return
            for sentinel in ended:
                process = waiting.pop(sentinel)
                process.join()
                self._read_outcome(self._processes.index(process))
                if process.exitcode != 0 and deadline is None:
                    deadline = time.monotonic() + GRACE_PERIOD_S

    def _read_outcome(self, rank: int) -> None:
        receiver = self._receivers[rank]
        try:
            if receiver.poll():
                self._outcomes[rank] = receiver.recv()
        except (EOFError, OSError):  # killed before or while it wrote its outcome
            pass

    def _kill(self) -> None:
        self._killed = [rank for rank, process in enumerate(self._processes) if process.is_alive()]
        for rank in self._killed:
            self._processes[rank].kill()
            self._processes[rank].join()

    def _raise_failures(self) -> None:
        """Raises: the error that best explains why not all processes reached the end."""
        reported = [self._outcomes[rank] for rank in sorted(self._outcomes)]
        refused = next((outcome.value for outcome in reported if outcome.status == "refused"), None)
        if refused is not None:
            raise FolioError(refused)
        n_processes = self._n_processes
        for rank, process in enumerate(self._processes):
            if rank in self._outcomes or rank in self._killed or process.exitcode is None:
                continue
            if process.exitcode < 0:
                name = signal.Signals(-process.exitcode).name
                cause = " (the system may have run out of memory)" if name == "SIGKILL" else ""
                raise RankDied(f"process {rank} of {n_processes} was killed by {name}{cause}; the others were stopped")
            raise RankDied(f"process {rank} of {n_processes} ended with exit code {process.exitcode} and no message")
        failed = next((outcome.value for outcome in reported if outcome.status == "failed"), None)
        if failed is not None:
            raise RuntimeError(f"a process failed:\n{failed}")


@contextmanager
def _spawn_start_method() -> Iterator[None]:
    """Make spawn the default start method, which new processes inherit.

    In a job of hydra/launcher=joblib the default is loky's, which they could not find.
    """
    previous = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(previous, force=True)


def _run_rank(rank: int, spec: LaunchSpec, stop_signal: Any, senders: list[Connection]) -> None:
    """Run one of the processes, from its start to its end."""
    guard_standard_streams()
    threading.Thread(target=_exit_with_parent, daemon=True, name="exit-with-parent").start()
    if rank > 0:
        silence_stdout()
    if spec.job_number is not None:
        sys.stdout = NumberedLines(sys.stdout, spec.job_number)
        sys.stderr = NumberedLines(sys.stderr, spec.job_number)
    if spec.device.n_threads:
        torch.set_num_threads(spec.device.n_threads)
    outcome = _train(rank, spec, lambda: stop_signal.value)
    senders[rank].send(outcome)
    if outcome.status in ("refused", "failed"):
        os._exit(1)  # closing the remaining connections could wait for the other processes


def _exit_with_parent() -> None:
    """End this process when its parent dies: nothing could stop it any more, and the run may have been resumed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _train(rank: int, spec: LaunchSpec, stop_requested: StopRequested) -> Outcome:
    rank_info = RankInfo(rank, spec.n_processes, rank, spec.n_processes, "train.py")
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(spec.port),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(rank_info.world_size),
    }
    try:
        distributed = init_distributed(rank_info, spec.device.accelerator)
        loss = spec.train(distributed, stop_requested)
        distributed.destroy()
        return Outcome("finished", loss)
    except SystemExit as stop:
        distributed.destroy()
        return Outcome("stopped", stop.code)
    except FolioError as error:
        return Outcome("refused", str(error))
    except Exception:
        return Outcome("failed", traceback.format_exc()[-MAX_TRACEBACK_CHARACTERS:])
