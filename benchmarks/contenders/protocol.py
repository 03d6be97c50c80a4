"""How a side is told to work: JSON lines, commands in and answers out. Imports no torch.

A side reads its commands blocking, so while it is another's turn it takes no time from it. Answers go through a pipe
of their own: standard output belongs to what a side draws and prints.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a worker process is to be."""

    task: Literal["train", "generate"]
    side: str
    """A key of `benchmarks.contenders.selection.TITLES`."""
    config: dict[str, Any]
    """A whole plain RunConfig, with model.vocab_size settled."""
    folder: str
    """Of its own, for run folders and the like."""
    weights: str | None
    """Where Folio's side writes the weights that it begins with, and the others read theirs; None: each its own."""
    nanogpt: str | None = None
    threads: int | None = None
    tokens: str | None = None
    """A token file to train on, in place of the corpus that the config names."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Spec":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Command:
    """steps: train n. memory: say what it took. validate: the whole split. write: n new tokens for `batch` rows."""

    do: Literal["steps", "memory", "validate", "write"]
    n: int = 0
    batch: int = 1


class Line:
    """The worker's end."""

    def __init__(self, commands: TextIO, answers: TextIO) -> None:
        self._commands = commands
        self._answers = answers
        self._idle_since = time.process_time()
        self._idle_cpu_s = 0.0

    def next(self) -> Command | None:
        """Wait for a command; None where there will be none."""
        line = self._commands.readline()
        self._idle_cpu_s = time.process_time() - self._idle_since
        return Command(**json.loads(line)) if line else None

    def answer(self, **values: Any) -> None:
        """`idle_cpu_s` says what waiting for the command took from the other sides."""
        self._send(values | {"idle_cpu_s": self._idle_cpu_s})
        self._idle_since = time.process_time()

    def fail(self, message: str) -> None:
        self._send({"error": message})

    def _send(self, values: dict[str, Any]) -> None:
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()
