"""Commands to a worker process and its replies, as JSON lines. Imports no torch.

A worker blocks while it reads a command, so it takes no time from the contender whose turn it is. Replies have a pipe
of their own, because a contender prints and draws on standard output.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """The contender that a worker process builds, and with what."""

    task: Literal["train", "generate"]
    contender: str
    """A key of `benchmarks.contenders.selection.TITLES`."""
    config: dict[str, Any]
    """A complete plain RunConfig, with model.vocab_size set."""
    folder: str
    """The worker's own folder, for run folders and the like."""
    weights: str | None
    """File to which Folio writes its initial weights and from which the others read them; None: each draws its own."""
    nanogpt: str | None = None
    """Folder of a checkout of nanoGPT."""
    threads: int | None = None
    tokens: str | None = None
    """A token file to train on, instead of the corpus that the config names."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that the process gets in addition."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "WorkerSpec":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Command:
    """A request to a worker.

    steps: train n steps. memory: report the peak, and how many graphs torch.compile made. validate: measure the loss
    on the whole validation split. generate: n new tokens for each of `batch` prompts.
    """

    do: Literal["steps", "memory", "validate", "generate"]
    n: int = 0
    batch: int = 1


class Channel:
    """The worker's end: receives commands and sends replies."""

    def __init__(self, commands: TextIO, replies: TextIO) -> None:
        self._commands = commands
        self._replies = replies
        self._idle_since = time.process_time()
        self._idle_cpu_s = 0.0

    def receive(self) -> Command | None:
        """Wait for the next command. Returns None when there will be no more."""
        line = self._commands.readline()
        self._idle_cpu_s = time.process_time() - self._idle_since
        return Command(**json.loads(line)) if line else None

    def reply(self, **values: Any) -> None:
        """Send a reply; `idle_cpu_s` tells how much CPU time this worker used while it waited."""
        self._send(values | {"idle_cpu_s": self._idle_cpu_s})
        self._idle_since = time.process_time()

    def reply_error(self, message: str) -> None:
        self._send({"error": message})

    def _send(self, values: dict[str, Any]) -> None:
        self._replies.write(json.dumps(values) + "\n")
        self._replies.flush()
