"""The part `quality`: which program reaches a validation loss first, and by how much."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.process import Worker, scratch_folder, workers
from benchmarks.contenders.protocol import Command
from benchmarks.contenders.selection import TITLES
from benchmarks.options import Options
from benchmarks.report.results import Report, Series
from benchmarks.report.statistics import first_at_most
from folio.runtime.errors import FolioError


@dataclass(frozen=True)
class Contest:
    """Two recipes with one budget of parameters, tokens and steps."""

    units: str
    """What the losses are nats of."""
    to_gpt2_state: str
    """An experiment, too."""
    changes: tuple[str, ...] = ()
    """Of their recipe."""
    goal_nats: float | None = None
    """What is to be reached; where theirs ends, if not given."""


CONTESTS = {
    # 1.898: where nanoGPT's own code, with its own order of batches, ends over the whole validation split.
    "speedrun_char_cpu": Contest("characters", "nanogpt_shakespeare_char_cpu", goal_nats=1.898),
    "speedrun_bpe_cpu": Contest("GPT-2's tokens", "nanogpt_shakespeare_char_cpu", ("tokenizer=gpt2",)),
}
"""By Folio's recipe, which is an experiment."""

BLOCK_STEPS = 25
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
    """After each block."""
    step_s: list[float]
    """Mean of each block."""
    losses: list[float]

    @property
    def step(self) -> int:
        return self.steps[-1] if self.steps else 0

    @property
    def train_s(self) -> list[float]:
        """Training time at each of `steps`, by the median step: what held a block up does not count."""
        return [step * statistics.median(self.step_s) for step in self.steps]

    def go_on(self, n_steps: int) -> None:
        n = min(n_steps, self.max_steps - self.step)
        if n <= 0:
            return
        answer = self.worker.ask(Command("steps", n))
        loss = self.worker.ask(Command("validate"))["loss_nats"]
        self.step_s.append(answer["elapsed_s"] / n)
        self.steps.append(self.step + n)
        self.losses.append(loss)


def measure_quality(recipes: Sequence[str], options: Options, report: Report) -> None:
    """Add the curves of these of Folio's best recipes and of nanoGPT's, each to its end, in turn."""
    for recipe in recipes:
        measure_contest(recipe, options, report)


def measure_contest(ours: str, options: Options, report: Report) -> None:
    contest = CONTESTS[ours]
    peer = "nanogpt" if "nanogpt" in options.peers.names else "folio"
    with scratch_folder() as folder:
        specs, names, ends = [], [], []
        for experiment, side, changes, title in (
            (ours, "folio", (), f"Folio, {ours}"),
            (contest.to_gpt2_state, peer, contest.changes, f"{TITLES[peer]}, nanoGPT's recipe"),
        ):
            same_function = ["model.activation=gelu"] if side == "nanogpt" else []
            config = options.compose(
                [f"experiment={experiment}", *changes, *COMMON, *same_function, *options.overrides]
            )
            ends.append(config.training.max_steps)
            # One step more than is ever done, so that the last one is like the others.
            training = config.training.model_copy(update={"validate_every_steps": config.training.max_steps + 1})
            config = config.model_copy(update={"training": training})
            specs.append(options.spec(config, folder / experiment, side, weights=None))
            names.append(title)
        options.say(f"quality: starting {ours}")
        with workers(specs) as sides:
            runners = [Runner(*parts, [], [], []) for parts in zip(names, sides, ends, strict=True)]
            while any(runner.step < runner.max_steps for runner in runners):
                for runner in runners:
                    runner.go_on(BLOCK_STEPS)
                    train_s, loss = runner.train_s[-1], runner.losses[-1]
                    options.say(f"quality: {runner.name}, step {runner.step} after {train_s:.0f} s: {loss:.4f} nats")
            report.series += summaries(runners, contest)


def summaries(runners: list[Runner], contest: Contest) -> list[Series]:
    """The last loss of each, the whole curve in the facts, and when the goal was passed."""
    if not all(runner.losses for runner in runners):
        raise FolioError("quality: a recipe without a step; give training.max_steps of 1 or more")
    series = []
    goal_nats = contest.goal_nats or runners[-1].losses[-1]
    whole_s = runners[-1].train_s[-1]
    for runner in runners:
        train_s, passed = runner.train_s, first_at_most(runner.losses, goal_nats)
        facts: dict[str, Any] = {
            "steps": runner.steps,
            "step_s": runner.step_s,
            "train_s": train_s,
            "val_loss_nats": runner.losses,
            "goal_nats": goal_nats,
            "goal_step": None if passed is None else runner.steps[passed],
            "goal_s": None if passed is None else train_s[passed],
            "goal_share": None if passed is None else train_s[passed] / whole_s,
        }
        note = f"{runner.max_steps:,} steps in {train_s[-1]:.0f} s; {goal_nats:.3f} nats not reached"
        if passed is not None:
            note = (
                f"{runner.max_steps:,} steps in {train_s[-1]:.0f} s; {goal_nats:.3f} nats by step "
                f"{runner.steps[passed]:,}, {train_s[passed]:.0f} s, "
                f"{100 * train_s[passed] / whole_s:.0f} % of the other's whole time"
            )
        series.append(Series("quality", contest.units, runner.name, "nats", [runner.losses[-1]], note, facts))
    return series
