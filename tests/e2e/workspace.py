"""What a user has: a folder, commands typed there, and the run folders that they leave."""

import csv
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]

TINY = ("model=debug", "tokenizer=char", "data=text_file", "data.path=tiny.txt", "trainer=cpu")
"""The smallest run there is: seconds go into imports, not into steps."""

FAMILIES: dict[str, tuple[str, ...]] = {
    # what makes of TINY a run of another family; samples of an encoder need a blank
    "masked_lm": ("model.family=encoder", "objective=masked_lm", "callbacks.samples.prompt='ROMEO: [MASK]'"),
    "hidden_cache": ("model.family=encoder_decoder", "objective=prefix_lm", "conditioning=hidden_cache"),
    "cross_attention": ("model.family=encoder_decoder", "objective=prefix_lm", "conditioning=cross_attention"),
}

TINY_TEXT = "".join(
    f"ROMEO: {number} times the quality of mercy is not strain'd.\nJULIET: It droppeth as the gentle rain.\n"
    for number in range(40)
)


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str

    def error_line(self) -> str:
        """The one line of a refusal; fails where the process said anything else."""
        assert self.code == 2, f"exit code {self.code}\n{self.stdout}{self.stderr}"
        assert self.stderr.startswith("error: "), self.stderr
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr


OF_ITS_TIME = {"elapsed_s", "train/tokens_per_s", "peak_memory_bytes", "git_commit"}
"""Metrics that no two runs have in common."""


@dataclass(frozen=True)
class Run:
    """A run folder, read as a user would."""

    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        metrics = json.loads((self.folder / "metrics.json").read_text())
        assert isinstance(metrics, dict)
        return metrics

    @property
    def results(self) -> dict[str, Any]:
        """All metrics that a run comes to however long it takes."""
        return {key: value for key, value in self.metrics.items() if key not in OF_ITS_TIME}

    @property
    def config(self) -> dict[str, Any]:
        config = yaml.safe_load((self.folder / "config.yaml").read_text())
        assert isinstance(config, dict)
        return config

    @property
    def samples(self) -> str:
        return (self.folder / "samples.md").read_text()

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        state = torch.load(self.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert isinstance(state, dict)
        return state

    def weights(self, name: str = "last") -> dict[str, torch.Tensor]:
        weights = self.checkpoint(name)["state_dict"]
        assert isinstance(weights, dict)
        return weights

    def curve(self, tag: str, logger: str = "tensorboard") -> list[tuple[int, float]]:
        """The logged (step, value) of a scalar, in the order in which they are shown."""
        if logger == "csv":
            with (self.folder / "csv" / "metrics.csv").open() as file:
                rows = [row for row in csv.DictReader(file) if row["name"] == tag]
            return [(int(row["step"]), float(row["value"])) for row in rows]
        return [(event.step, event.value) for event in self.events().Scalars(tag)]

    def events(self) -> EventAccumulator:
        """What TensorBoard shows of the run."""
        return EventAccumulator(str(self.folder / "tensorboard")).Reload()

    def equals(self, other: "Run") -> bool:
        """Whether both ended in the same weights, bit for bit."""
        mine, others = self.weights(), other.weights()
        return mine.keys() == others.keys() and all(torch.equal(mine[key], others[key]) for key in mine)


@dataclass(frozen=True)
class Workspace:
    """A folder where a user stands and types commands; `data` lies in it, and `outputs` will."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, script: str, *args: str) -> list[str]:
        return [sys.executable, str(ROOT / script), *args]

    def run(self, script: str, *args: str, **environment: str) -> Finished:
        """Run a script of the repository to its end, whatever that is."""
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
        """What a script prints that has to succeed, and has nothing to warn of."""
        finished = self.run(script, *args, **environment)
        assert finished.code == 0, finished.stdout + finished.stderr
        assert finished.stderr == ""
        return finished.stdout

    def start(self, script: str, *args: str) -> subprocess.Popen[str]:
        """Start a script; the caller ends it."""
        return subprocess.Popen(
            self.command(script, *args),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def train(self, *args: str) -> Run:
        """A whole training of its own; returns the run folder that it made."""
        before = set(self.runs())
        self.must("train.py", *args)
        (folder,) = set(self.runs()) - before
        return Run(folder)

    def runs(self) -> list[Path]:
        """Every run folder, those of sweeps included, in the order of their names."""
        return sorted(path.parent for path in (self.folder / "outputs").rglob("preflight.json"))

    def files(self) -> set[Path]:
        return set(self.folder.rglob("*"))
