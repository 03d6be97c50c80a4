"""The asking end: worker processes that take turns."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import Command, Spec
from folio.runtime.errors import FolioError

PATIENCE_S = 5.0
"""For a worker that is done to leave."""


class Worker:
    """A side in a process of its own. It has a terminal, so that a progress bar is drawn as for a person."""

    def __init__(self, spec: Spec) -> None:
        self.side = spec.side
        folder = Path(spec.folder)
        folder.mkdir(parents=True, exist_ok=True)
        spec.write(folder / "spec.json")
        self._errors = (folder / "stderr.txt").open("w+", encoding="utf-8", errors="replace")
        answers, answers_in = os.pipe()
        screen, terminal = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders.worker", str(folder / "spec.json"), str(answers_in)],
            stdin=subprocess.PIPE,
            stdout=terminal,
            stderr=self._errors,
            pass_fds=(answers_in,),
            env=_environment(spec.threads),
            text=True,
            start_new_session=True,  # Ctrl-C is for us alone; we end it
        )
        os.close(answers_in)
        os.close(terminal)
        self._answers = os.fdopen(answers, encoding="utf-8")
        threading.Thread(target=_drain, args=(screen,), daemon=True).start()
        self.facts: dict[str, Any] = {}

    def wait_until_ready(self) -> None:
        """Its model is built. Raises: FolioError where that went wrong."""
        self.facts = self._answer()

    def ask(self, command: Command) -> dict[str, Any]:
        """Its answer, which takes as long as the work. Raises: FolioError where the worker has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then the answer, which is none, says why
            self._process.stdin.write(json.dumps(asdict(command)) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            code = self._process.wait()
            raise FolioError(f"the side {self.side} ended with exit code {code}: {self._last_words()}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        if "error" in answer:
            raise FolioError(f"the side {self.side}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def hang_up(self) -> None:
        """Tell it that there will be no more commands."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """Let it leave, or make it."""
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()


@contextmanager
def workers(specs: list[Spec]) -> Iterator[list[Worker]]:
    """All of them, ready. The first is ready before the others start, for it may write what they read."""
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
            worker.hang_up()
        for worker in started:
            worker.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """For run folders and weights; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="folio-benchmark-") as folder:
        yield Path(folder)


def _environment(threads: int | None) -> dict[str, str]:
    kept_out = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES")
    environment = {key: value for key, value in os.environ.items() if key not in kept_out}
    environment |= {"TERM": "xterm-256color", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _drain(screen: int) -> None:
    """Read what is drawn, so that the worker never waits for room; ends with the worker."""
    with suppress(OSError):
        while os.read(screen, 1 << 16):
            pass
    os.close(screen)
