"""A user's folder, the commands run in it, and the run folders that they create."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from folio.runs.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]

TINY = ("model=debug", "tokenizer=char", "data=text_file", "data.path=tiny.txt", "trainer=cpu")
"""The smallest run: most of its seconds are imports."""

FAMILIES: dict[str, tuple[str, ...]] = {
    # Overrides that make TINY a run of another family. An encoder's samples need a blank to fill.
    "masked_lm": ("model.family=encoder", "objective=masked_lm", "callbacks.samples.prompt='ROMEO: [MASK]'"),
    "hidden_cache": ("model.family=encoder_decoder", "objective=prefix_lm", "conditioning=hidden_cache"),
    "cross_attention": ("model.family=encoder_decoder", "objective=prefix_lm", "conditioning=cross_attention"),
}

TINY_TEXT = "".join(
    f"ROMEO: {number} times the quality of mercy is not strain'd.\nJULIET: It droppeth as the gentle rain.\n"
    for number in range(40)
)


def choose(words: tuple[str, ...], *typed: str) -> tuple[str, ...]:
    """Return the words with others in place of those of the same key: a group can be chosen only once."""
    keys = {word.partition("=")[0] for word in typed}
    return (*(word for word in words if word.partition("=")[0] not in keys), *typed)


@dataclass(frozen=True)
class Finished:
    """The result of a process."""

    code: int
    stdout: str
    stderr: str

    def error_line(self) -> str:
        """Return the only line of an error message; fails if the process printed anything else."""
        assert self.code == 2, f"exit code {self.code}\n{self.stdout}{self.stderr}"
        assert self.stderr.startswith("error: "), self.stderr
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr


def inspect_wandb(file: Path) -> list[dict[str, Any]]:
    """Return the records of a run of W&B, as `wandb leet inspect` reads them."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the history in records of W&B."""
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@contextmanager
def proxy_that_nobody_may_ask() -> Iterator[dict[str, str]]:
    """Yield an environment in which all traffic goes to a port, and fail if anything connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


VARYING_METRICS = {"elapsed_s", "train/tokens_per_s", "mfu", "energy_j", "peak_memory_bytes", "git_commit"}
"""Metrics that differ even between equal runs."""


@dataclass(frozen=True)
class Run:
    """A run folder, read as a user reads it."""

    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        metrics = json.loads((self.folder / "metrics.json").read_text())
        assert isinstance(metrics, dict)
        return metrics

    @property
    def results(self) -> dict[str, Any]:
        """The metrics that equal runs have in common."""
        return {key: value for key, value in self.metrics.items() if key not in VARYING_METRICS}

    @property
    def config(self) -> dict[str, Any]:
        config = yaml.safe_load((self.folder / "config.yaml").read_text())
        assert isinstance(config, dict)
        return config

    @property
    def samples(self) -> str:
        return (self.folder / "samples.md").read_text()

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        return read_checkpoint(self.folder / "checkpoints" / f"{name}.ckpt")

    def weights(self, name: str = "last") -> dict[str, torch.Tensor]:
        weights = self.checkpoint(name)["state_dict"]
        assert isinstance(weights, dict)
        return weights

    def curve(self, tag: str, logger: str = "tensorboard") -> list[tuple[int, float]]:
        """Return the logged (step, value) pairs of a scalar, in the order in which they are shown."""
        if logger == "csv":
            with (self.folder / "csv" / "metrics.csv").open() as file:
                rows = [row for row in csv.DictReader(file) if row["name"] == tag]
            return [(int(row["step"]), float(row["value"])) for row in rows]
        if logger == "mlflow":
            points = self._mlflow_client().get_metric_history(self.ids["mlflow"], tag)
            return [(point.step, point.value) for point in points]
        return [(event.step, event.value) for event in self.events().Scalars(tag)]

    @property
    def ids(self) -> dict[str, str]:
        """The ids by which the services of loggers know the run."""
        ids = json.loads((self.folder / "loggers.json").read_text())
        assert isinstance(ids, dict)
        return ids

    def wandb_files(self) -> list[Path]:
        """Return the files of W&B, one for each part of the run, in the order of time."""
        return sorted(self.folder.glob("wandb/offline-run-*/run-*.wandb"))

    def mlflow(self) -> Any:
        """Return the run as MLflow knows it."""
        return self._mlflow_client().get_run(self.ids["mlflow"])

    def mlflow_artifacts(self) -> Path:
        return Path(self.mlflow().info.artifact_uri.removeprefix("file://"))

    def _mlflow_client(self) -> Any:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow import MlflowClient

            (database,) = [folder / "mlflow.db" for folder in self.folder.parents if (folder / "mlflow.db").is_file()]
            return MlflowClient(f"sqlite:///{database}")

    def events(self) -> EventAccumulator:
        """Return what TensorBoard shows of the run."""
        return EventAccumulator(str(self.folder / "tensorboard")).Reload()

    def equals(self, other: "Run") -> bool:
        """Return whether both runs ended with the same weights, bit for bit."""
        ours, theirs = self.weights(), other.weights()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def clean_environment() -> dict[str, str]:
    """Return this process's environment variables without those that affect Folio, and with one thread."""
    removed = ("FOLIO_", "HYDRA_", "SLURM_", "COLUMNS", "FORCE_COLOR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(removed)}
    return environment | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Workspace:
    """A folder in which a user runs commands. It contains `data`, and later `outputs`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, script: str, *args: str) -> list[str]:
        """Return the command line of a script of the repository, or of "-m" and a module."""
        return [sys.executable, script if script == "-m" else str(ROOT / script), *args]

    def run(self, script: str, *args: str, **environment: str) -> Finished:
        """Run a script and wait for it to end, successfully or not."""
        result = subprocess.run(
            self.command(script, *args),
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Finished(result.returncode, result.stdout, result.stderr)

    def must(self, script: str, *args: str, **environment: str) -> str:
        """Run a script that must succeed without a warning. Returns what it prints."""
        finished = self.run(script, *args, **environment)
        assert finished.code == 0, finished.stdout + finished.stderr
        assert finished.stderr == ""
        return finished.stdout

    def start(self, script: str, *args: str) -> subprocess.Popen[str]:
        """Start a script and return its process, which the caller must end."""
        return subprocess.Popen(
            self.command(script, *args),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_until(self, text: str, script: str, *args: str) -> subprocess.Popen[str]:
        """Start a script and return its process once it has printed a line with `text`."""
        process = self.start(script, *args)
        assert process.stdout is not None
        if not any(text in line for line in process.stdout):
            raise AssertionError(f"ended with exit code {process.wait()} before it printed {text!r}")
        return process

    def wait_for_log(self, text: str, process: subprocess.Popen[str], n_runs: int = 1) -> None:
        """Wait until the train.log of n_runs runs has the text: a sweep prints only one line for each job."""
        while sum(text in path.read_text() for path in self.folder.glob("outputs/**/train.log")) < n_runs:
            assert process.poll() is None, f"ended with exit code {process.poll()} before it logged {text!r}"
            time.sleep(0.05)

    def train(self, *args: str) -> Run:
        """Train a run to its end and return it."""
        before = set(self.runs())
        self.must("train.py", *args)
        (folder,) = set(self.runs()) - before
        return Run(folder)

    def runs(self) -> list[Path]:
        """Return every run folder, including those of sweeps, sorted by name."""
        return sorted(path.parent for path in (self.folder / "outputs").rglob("preflight.json"))

    def files(self) -> set[Path]:
        return set(self.folder.rglob("*"))
