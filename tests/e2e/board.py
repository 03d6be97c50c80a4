"""A real TensorBoard server, queried as its own pages query it."""

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

TIMEOUT_S = 300
"""Time that a busy machine may take before a test fails."""

STATUSES = ("STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING")


def wait_until(condition: Callable[[], bool], what: str, pause: Callable[[], None] = lambda: time.sleep(0.5)) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, f"not within {TIMEOUT_S} seconds: {what}"
        pause()


@dataclass(frozen=True)
class Board:
    """A running TensorBoard."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}data/{path}?{urlencode(parameters)}") as response:
            return json.load(response)

    def post(self, path: str, **values: Any) -> Any:
        request = Request(
            f"{self.url}data/plugin/hparams/{path}", json.dumps(values).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request) as response:
            return json.load(response)

    def curve(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Return the (step, value) pairs of a scalar."""
        return [(step, value) for _, step, value in self.get("plugin/scalars/scalars", run=run, tag=tag)]

    def columns(self) -> dict[str, Any]:
        """Return the columns of the HParams tab."""
        experiment = self.post("experiment", experimentName="", hparamsLimit=1000)
        assert isinstance(experiment, dict)
        return experiment

    def rows(self, *order: Any) -> dict[str, dict[str, Any]]:
        """Return the rows of the HParams tab by run, in its order: hparams, metrics and statuses."""
        query = {"experimentName": "", "allowedStatuses": STATUSES, "startIndex": 0, "sliceSize": 1000}
        groups = self.post("session_groups", colParams=order, **query).get("sessionGroups", [])
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
    """Run TensorBoard as `make tensorboard` does, on a free port."""
    log = logdir / "tensorboard.log"
    script = Path(__file__).parents[2] / "scripts" / "board.py"
    command = [sys.executable, str(script), "--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def address() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"TensorBoard \S+ at (http://\S+)", log.read_text())

    try:
        wait_until(lambda: address() is not None, "TensorBoard prints its address")
        found = address()
        assert found is not None
        yield Board(found[1])
    finally:
        process.terminate()
        process.wait()
