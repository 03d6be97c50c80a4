"""The real TensorBoard on run folders, asked as its pages ask it."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

PATIENCE_S = 300
"""How long a busy machine may take before a test gives up; nothing waits longer than it has to."""

STATUSES = ("STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING")


def until(true: Callable[[], bool], what: str, pause: Callable[[], None] = lambda: time.sleep(0.5)) -> None:
    """Wait for something to become so."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not in {PATIENCE_S} seconds: {what}"
        pause()


@dataclass(frozen=True)
class Board:
    """A TensorBoard that runs."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}data/{path}?{urlencode(parameters)}") as answer:
            return json.load(answer)

    def post(self, path: str, **values: Any) -> Any:
        request = Request(
            f"{self.url}data/plugin/hparams/{path}", json.dumps(values).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request) as answer:
            return json.load(answer)

    def curve(self, run: str, tag: str) -> list[tuple[int, float]]:
        """(step, value) of a scalar."""
        return [(step, value) for _, step, value in self.get("plugin/scalars/scalars", run=run, tag=tag)]

    def columns(self) -> dict[str, Any]:
        """Of the HParams tab."""
        experiment = self.post("experiment", experimentName="", hparamsLimit=1000)
        assert isinstance(experiment, dict)
        return experiment

    def rows(self, *order: Any) -> dict[str, dict[str, Any]]:
        """Of the HParams tab, by run, in the order of the page: hparams, metrics and status."""
        asked = {"experimentName": "", "allowedStatuses": STATUSES, "startIndex": 0, "sliceSize": 1000}
        groups = self.post("session_groups", colParams=order, **asked).get("sessionGroups", [])
        return {
            group["name"]: {
                "hparams": group["hparams"],
                "metrics": {metric["name"]["tag"]: metric["value"] for metric in group.get("metricValues", [])},
                "statuses": [session.get("status", STATUSES[0]) for session in group["sessions"]],
            }
            for group in groups
        }


@contextmanager
def tensorboard(logdir: Path, environment: dict[str, str]) -> Iterator[Board]:
    """Start TensorBoard as `make tensorboard` does, on a free port, and stop it afterwards."""
    log = logdir / "tensorboard.log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def address() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"TensorBoard \S+ at (http://\S+)", log.read_text())

    try:
        until(lambda: address() is not None, "TensorBoard says where it is")
        found = address()
        assert found is not None
        yield Board(found[1])
    finally:
        process.terminate()
        process.wait()
