"""What holds for every part of one call of the benchmark. Imports no torch."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import Spec
from benchmarks.contenders.selection import Peers
from folio.config.run import RunConfig

Compose = Callable[[Sequence[str]], RunConfig]
"""Overrides of train.py -> its config, with the data prepared and model.vocab_size settled."""


class Progress:
    """Says on standard error what is being measured: one line that changes on a terminal, a line each elsewhere.

    Nothing is drawn while a side works: it would take time from it.
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
    rounds: int
    peers: Peers
    compose: Compose
    threads: int | None = None
    overrides: tuple[str, ...] = ()
    say: Callable[[str], None] = field(default_factory=Progress)

    def spec(self, config: RunConfig, folder: Path, side: str, **changes: Any) -> Spec:
        """A side that trains on a config; `folder` holds those of all sides, and the weights that they share."""
        fields: dict[str, Any] = {
            "task": "train",
            "side": side,
            "config": config.model_dump(),
            "folder": str(folder / side),
            "weights": str(folder / "weights.pt"),
            "nanogpt": None if self.peers.nanogpt is None else str(self.peers.nanogpt.resolve()),
            "threads": self.threads,
        }
        return Spec(**(fields | changes))
