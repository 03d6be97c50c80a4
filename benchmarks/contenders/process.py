"""Worker processes that take turns, seen from the process that measures them."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import Command, WorkerSpec
from folio.runtime.errors import FolioError

EXIT_TIMEOUT_S = 5.0
"""Time that workers have to exit before they are killed."""


class Worker:
    """A contender in a process of its own, with a terminal, so that it draws its progress bar as it does for a user."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.contender = spec.contender
        folder = Path(spec.folder)
        folder.mkdir(parents=True, exist_ok=True)
        spec.write(folder / "spec.json")
        self._errors = (folder / "stderr.txt").open("w+", encoding="utf-8", errors="replace")
        replies, worker_replies = os.pipe()
        screen, terminal = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders.worker", str(folder / "spec.json"), str(worker_replies)],
            stdin=subprocess.PIPE,
            stdout=terminal,
            stderr=self._errors,
            pass_fds=(worker_replies,),
            env=_environment(spec.threads) | spec.environment,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the worker
        )
        os.close(worker_replies)
        os.close(terminal)
        self._replies = os.fdopen(replies, encoding="utf-8")
        threading.Thread(target=_drain, args=(screen,), daemon=True).start()
        self.facts: dict[str, Any] = {}
        """Facts that the worker sends once its model is built."""

    def wait_until_ready(self) -> None:
        """Wait until the model is built. Raises: FolioError if that fails."""
        self.facts = self._receive()

    def ask(self, command: Command) -> dict[str, Any]:
        """Send a command and wait for the reply. Raises: FolioError if the worker has exited."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the missing reply is reported below
            self._process.stdin.write(json.dumps(asdict(command)) + "\n")
            self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            code = self._process.wait()
            raise FolioError(f"contender {self.contender} ended with exit code {code}: {self._last_error_line()}")
        reply = json.loads(line)
        assert isinstance(reply, dict)
        if "error" in reply:
            raise FolioError(f"contender {self.contender}: {reply['error']}")
        return reply

    def _last_error_line(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else "it printed no error"

    def close_commands(self) -> None:
        """Tell the worker that there will be no more commands."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self, timeout_s: float) -> None:
        """Wait for the process to exit; kill it if it does not."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()
        self._errors.close()


@contextmanager
def start_workers(specs: list[WorkerSpec]) -> Iterator[list[Worker]]:
    """Start the workers and yield them, all ready.

    The others start when the first is ready, because it may write the weights that they load.
    """
    started: list[Worker] = []
    try:
        for spec in specs:
            started.append(Worker(spec))
            if len(started) == 1:
                started[0].wait_until_ready()
        for worker in started[1:]:
            worker.wait_until_ready()
        yield started
    finally:
        for worker in started:
            worker.close_commands()
        deadline = time.monotonic() + EXIT_TIMEOUT_S
        for worker in started:
            worker.close(max(0.0, deadline - time.monotonic()))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder for run folders and weights, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="folio-benchmark-") as folder:
        yield Path(folder)


def _environment(threads: int | None) -> dict[str, str]:
    removed = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES")
    environment = {key: value for key, value in os.environ.items() if key not in removed}
    environment |= {"TERM": "xterm-256color", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _drain(screen: int) -> None:
    """Read what the worker draws, so that it never blocks on a full terminal; ends with the worker."""
    with suppress(OSError):
        while os.read(screen, 1 << 16):
            pass
    os.close(screen)
