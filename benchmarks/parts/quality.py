"""The part `quality`: which program reaches a validation loss first, and by how much."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders.process import Worker, scratch_folder, start_workers
from benchmarks.contenders.protocol import Command, WorkerSpec
from benchmarks.contenders.selection import TITLES
from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from benchmarks.report.statistics import first_at_most
from folio.runtime.errors import FolioError


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe of nanoGPT that one of Folio's is compared with; both have the same parameters, tokens and steps."""

    units: str
    """Units of text to which the losses refer."""
    baseline: str
    """nanoGPT's recipe as an experiment of Folio."""
    baseline_overrides: tuple[str, ...] = ()
    goal_nats: float | None = None
    """Validation loss to reach; None: the final loss of the baseline."""


COMPARISONS = {
    # 1.898: the final loss of nanoGPT's own code, with its own order of batches, on the whole validation split.
    "speedrun_char_cpu": RecipeComparison("characters", "nanogpt_shakespeare_char_cpu", goal_nats=1.898),
    "speedrun_bpe_cpu": RecipeComparison("GPT-2's tokens", "nanogpt_shakespeare_char_cpu", ("tokenizer=gpt2",)),
}
"""By Folio's recipe, which is an experiment."""

BLOCK_STEPS = 25
"""Steps between validations. Only training is timed."""

COMMON = ("trainer=cpu", "callbacks.samples.max_new_tokens=0", "logger=tensorboard")


@dataclass
class RecipeRun:
    """One recipe in training, and its validation losses so far."""

    title: str
    worker: Worker
    max_steps: int
    steps: list[int] = field(default_factory=list)
    """Number of steps after each block."""
    step_s: list[float] = field(default_factory=list)
    """Mean time of a step in each block."""
    losses: list[float] = field(default_factory=list)
    """Validation loss after each block."""

    @property
    def step(self) -> int:
        return self.steps[-1] if self.steps else 0

    @property
    def train_s(self) -> list[float]:
        """Training time at each of `steps`, computed from the median step, so that a delayed block does not count."""
        return [step * statistics.median(self.step_s) for step in self.steps]

    def advance(self, n_steps: int) -> None:
        """Train so many steps, or what is left of them, and validate."""
        n_steps = min(n_steps, self.max_steps - self.step)
        if n_steps <= 0:
            return
        reply = self.worker.ask(Command("steps", n_steps))
        self.losses.append(self.worker.ask(Command("validate"))["loss_nats"])
        self.step_s.append(reply["elapsed_s"] / n_steps)
        self.steps.append(self.step + n_steps)


def measure_quality(recipes: Sequence[str], options: Options, report: BenchmarkReport) -> None:
    """Add the validation curves of Folio's recipes and of nanoGPT's, each trained to its end, in turn."""
    for recipe in recipes:
        comparison = COMPARISONS[recipe]
        peer = "nanogpt" if "nanogpt" in options.peers.names else "folio"
        with scratch_folder() as folder:
            ours, our_steps = recipe_spec(recipe, "folio", (), options, folder)
            theirs, their_steps = recipe_spec(comparison.baseline, peer, comparison.baseline_overrides, options, folder)
            options.say(f"quality: starting {recipe}")
            with start_workers([ours, theirs]) as workers:
                runs = [
                    RecipeRun(f"Folio, {recipe}", workers[0], our_steps),
                    RecipeRun(f"{TITLES[peer]}, nanoGPT's recipe", workers[1], their_steps),
                ]
                train_to_end(runs, options)
                report.series += quality_series(runs, comparison)


def recipe_spec(
    experiment: str, contender: str, overrides: Sequence[str], options: Options, folder: Path
) -> tuple[WorkerSpec, int]:
    """Describe the contender that trains an experiment. Also returns its number of steps."""
    same_function = ["model.activation=gelu"] if contender == "nanogpt" else []
    config = options.compose([f"experiment={experiment}", *overrides, *COMMON, *same_function, *options.overrides])
    max_steps = config.training.max_steps
    # The run must not validate by itself, not even at its last step, because this part does.
    training = config.training.model_copy(update={"validate_every_steps": max_steps + 1})
    config = config.model_copy(update={"training": training})
    return options.spec(config, folder / experiment, contender, weights=None), max_steps


def train_to_end(runs: Sequence[RecipeRun], options: Options) -> None:
    """Train all runs to their ends, in turn."""
    while any(run.step < run.max_steps for run in runs):
        for run in runs:
            run.advance(BLOCK_STEPS)
            train_s, loss = run.train_s[-1], run.losses[-1]
            options.say(f"quality: {run.title}, step {run.step} after {train_s:.0f} s: {loss:.4f} nats")


def quality_series(runs: Sequence[RecipeRun], comparison: RecipeComparison) -> list[Series]:
    """Return the final loss of each run, with its curve and the time when it reached the goal as facts."""
    if not all(run.losses for run in runs):
        raise FolioError("quality: a recipe without a step; give training.max_steps of 1 or more")
    baseline = runs[-1]
    goal_nats = comparison.goal_nats or baseline.losses[-1]
    return [one_quality_series(run, goal_nats, baseline.train_s[-1], comparison.units) for run in runs]


def one_quality_series(run: RecipeRun, goal_nats: float, baseline_s: float, units: str) -> Series:
    """Return the final loss of a run. `baseline_s` is the whole training time of the baseline."""
    train_s, reached = run.train_s, first_at_most(run.losses, goal_nats)
    facts: dict[str, Any] = {
        "steps": run.steps,
        "step_s": run.step_s,
        "train_s": train_s,
        "val_loss_nats": run.losses,
        "goal_nats": goal_nats,
        "goal_step": None if reached is None else run.steps[reached],
        "goal_s": None if reached is None else train_s[reached],
        "goal_share": None if reached is None else train_s[reached] / baseline_s,
    }
    note = f"{run.max_steps:,} steps in {train_s[-1]:.0f} s; {goal_nats:.3f} nats not reached"
    if reached is not None:
        note = (
            f"{run.max_steps:,} steps in {train_s[-1]:.0f} s; {goal_nats:.3f} nats by step {run.steps[reached]:,}, "
            f"{train_s[reached]:.0f} s, {100 * train_s[reached] / baseline_s:.0f} % of the baseline's whole time"
        )
    return Series("quality", units, run.title, "nats", [run.losses[-1]], note, facts)
