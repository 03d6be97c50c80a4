"""The options of one run of the benchmark, which every part reads. Imports no torch."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import WorkerSpec
from benchmarks.contenders.selection import Peers
from benchmarks.workloads import SAME_FUNCTION
from folio.config.run import RunConfig

Compose = Callable[[Sequence[str]], RunConfig]
"""Overrides of train.py -> its config, with the data prepared and model.vocab_size set."""


class ProgressLine:
    """Tells on standard error what is being measured: one changing line on a terminal, otherwise a line each.

    Nothing is drawn while a contender works, because that would slow it down.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        print(f"\r\x1b[2K{text}" if self._is_terminal else text, end="" if self._is_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def clear(self) -> None:
        if self._is_terminal:
            self("")


@dataclass(frozen=True)
class Options:
    """Settings of one run of the benchmark."""

    rounds: int
    peers: Peers
    compose: Compose
    threads: int | None = None
    """Threads of each contender; None: PyTorch's default."""
    overrides: tuple[str, ...] = ()
    """Overrides of train.py for every run."""
    say: Callable[[str], None] = field(default_factory=ProgressLine)

    def data_dir(self) -> Path:
        """Prepare Tiny Shakespeare if necessary, and return the data folder."""
        return Path(self.compose(SAME_FUNCTION).paths.data_dir)

    def spec(self, config: RunConfig, folder: Path, contender: str, **changes: Any) -> WorkerSpec:
        """Describe a contender that trains on a config. `folder` is shared by all, and holds their common weights."""
        fields: dict[str, Any] = {
            "task": "train",
            "contender": contender,
            "config": config.model_dump(),
            "folder": str(folder / contender),
            "weights": str(folder / "weights.pt"),
            "nanogpt": None if self.peers.nanogpt is None else str(self.peers.nanogpt.resolve()),
            "threads": self.threads,
        }
        return WorkerSpec(**(fields | changes))
