"""The part `quality`: which program reaches a validation loss first, and by how much."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folio.benchmark.arithmetic import first_at_most
from folio.benchmark.options import Options
from folio.benchmark.processes import Worker, scratch_folder, workers
from folio.benchmark.protocol import Command
from folio.benchmark.results import Report, Series
from folio.benchmark.sides import TITLES
from folio.errors import FolioError

OURS = "speedrun_char_cpu"
THEIRS = "nanogpt_shakespeare_char_cpu"

GOAL_NATS = 1.898
"""Where nanoGPT's own code ends, over the whole validation split."""

BLOCK_STEPS = 50
"""After so many steps each side is validated, which is not timed: the clock of this part is training alone."""

# A side's run must neither validate nor end by itself: both are done from here.
COMMON = ("trainer=cpu", "callbacks.samples.max_new_tokens=0", "logger=tensorboard")


@dataclass
class Runner:
    """A run that has come so far."""

    name: str
    worker: Worker
    max_steps: int
    steps: list[int]
    seconds: list[float]
    losses: list[float]

    @property
    def step(self) -> int:
        return self.steps[-1] if self.steps else 0

    def go_on(self, n_steps: int) -> None:
        n = min(n_steps, self.max_steps - self.step)
        if n <= 0:
            return
        answer = self.worker.ask(Command("steps", n))
        loss = self.worker.ask(Command("validate"))["loss_nats"]
        self.seconds.append((self.seconds[-1] if self.seconds else 0.0) + answer["elapsed_s"])
        self.steps.append(self.step + n)
        self.losses.append(loss)


def measure_quality(options: Options, conf_dir: Path, report: Report) -> None:
    """Add the curves of Folio's best recipe and of nanoGPT's, both to their ends, in turn."""
    if not (conf_dir / "experiment" / f"{OURS}.yaml").is_file():
        report.skipped.append(f"quality is left out: there is no conf/experiment/{OURS}.yaml")
        return
    peer = "nanogpt" if "nanogpt" in options.peers.names else "folio"
    with scratch_folder() as folder:
        specs, names, ends = [], [], []
        for experiment, side, title in (
            (OURS, "folio", f"Folio, {OURS}"),
            (THEIRS, peer, f"{TITLES[peer]}, nanoGPT's recipe"),
        ):
            changes = ["model.activation=gelu"] if side == "nanogpt" else []
            config = options.compose([f"experiment={experiment}", *COMMON, *changes, *options.overrides])
            ends.append(config.training.max_steps)
            # One step more than is ever done, so that the last one is like the others.
            training = config.training.model_copy(update={"validate_every_steps": config.training.max_steps + 1})
            config = config.model_copy(update={"training": training})
            specs.append(options.spec(config, folder / experiment, side, weights=None))
            names.append(title)
        options.say("quality: starting")
        with workers(specs) as sides:
            runners = [Runner(*parts, [], [], []) for parts in zip(names, sides, ends, strict=True)]
            while any(runner.step < runner.max_steps for runner in runners):
                for runner in runners:
                    runner.go_on(BLOCK_STEPS)
                    options.say(f"quality: {runner.name}, step {runner.step}, {runner.losses[-1]:.4f} nats")
            report.series += summaries(runners)


def summaries(runners: list[Runner]) -> list[Series]:
    """The last loss of each, the whole curve in the facts, and when the goal was passed."""
    if not all(runner.losses for runner in runners):
        raise FolioError("quality: a recipe without a step; give training.max_steps of 1 or more")
    series = []
    whole_s = runners[-1].seconds[-1]
    for runner in runners:
        passed = first_at_most(runner.losses, GOAL_NATS)
        facts: dict[str, Any] = {
            "steps": runner.steps,
            "train_s": runner.seconds,
            "val_loss_nats": runner.losses,
            "goal_nats": GOAL_NATS,
            "goal_step": None if passed is None else runner.steps[passed],
            "goal_s": None if passed is None else runner.seconds[passed],
            "goal_share": None if passed is None else runner.seconds[passed] / whole_s,
        }
        note = f"{runner.max_steps:,} steps in {runner.seconds[-1]:.0f} s; {GOAL_NATS} nats not reached"
        if passed is not None:
            note = (
                f"{runner.max_steps:,} steps in {runner.seconds[-1]:.0f} s; {GOAL_NATS} nats by step "
                f"{runner.steps[passed]:,}, {runner.seconds[passed]:.0f} s, "
                f"{100 * runner.seconds[passed] / whole_s:.0f} % of the other's whole time"
            )
        series.append(Series("quality", "validation loss", runner.name, "nats", [runner.losses[-1]], note, facts))
    return series
