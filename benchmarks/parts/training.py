"""The parts `step`, `overhead` and `memory`: training steps of all sides in turn, at the works."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.contenders.process import Worker, scratch_folder, workers
from benchmarks.contenders.protocol import Command
from benchmarks.contenders.selection import TITLES
from benchmarks.options import Options
from benchmarks.report.results import Report, Series
from benchmarks.report.statistics import largest_difference, median_ratio, model_flops_per_token
from benchmarks.workloads import Work
from folio.config.run import RunConfig
from folio.runtime.errors import FolioError

WARM_UP_STEPS = 2
"""Not timed: the first allocates gradients, the second finds the optimizer's moments in place."""

N_CHECKED_STEPS = 5
"""Losses that have to agree: of the first weights, and after updates. Later, rounding has had time to grow."""

TOLERANCE = 1e-4
TOLERANCE_BF16 = 2e-2
"""bf16 has three digits, and a compiled graph rounds at other places than an eager one."""

PARTS = ("step", "overhead", "memory")


def measure_works(works: Iterable[Work], parts: Sequence[str], options: Options, report: Report) -> None:
    """Add the series of those of PARTS that are asked for.

    `step` and `memory` read the same processes, and `overhead` goes on with two of them. Raises: FolioError where two
    sides do not compute the same.
    """
    for work in works:
        with_peers = "step" in parts or "memory" in parts
        with_overhead = "overhead" in parts and work.overhead_blocks > 0
        if not with_peers and not with_overhead:
            continue
        config = options.compose([*work.overrides, *options.overrides])
        assert config.model.vocab_size is not None
        able, reasons = options.peers.able(config.transformer_config(config.model.vocab_size))
        sides = [side for side in able if with_peers]
        if with_overhead and "bare" not in sides:
            sides = ["bare", *sides]
        report.skipped += [reason for reason in reasons if reason not in report.skipped]
        with scratch_folder() as folder:
            measure_work(work, config, sides, parts, options, report, folder)


def measure_work(
    work: Work,
    config: RunConfig,
    peers: Sequence[str],
    parts: Sequence[str],
    options: Options,
    report: Report,
    folder: Path,
) -> None:
    """One work, by Folio and its peers."""
    period = config.training.checkpoint_every_steps
    n_timed = work.block_steps * (1 if work.checkpoint_each_block else options.rounds)
    training = config.training.model_copy(update={"checkpoint_every_steps": n_timed})
    config = config.model_copy(update={"training": training})
    options.say(f"{work.name}: starting {', '.join(TITLES[side] for side in ('folio', *peers))}")
    with workers([options.spec(config, folder, side) for side in ("folio", *peers)]) as sides:
        contest = Contest(work, config, sides, options)
        if "step" in parts or "memory" in parts:
            contest.take_turns(sides, options.rounds, work.block_steps)
        if "step" in parts:
            report.series += contest.step_series("step", sides, period)
        if "memory" in parts:
            report.series += contest.memory_series()
        if "overhead" in parts and work.overhead_blocks:
            pair = [next(side for side in sides if side.side == name) for name in ("folio", "bare")]
            contest.forget_times()
            contest.take_turns(pair, options.rounds * work.overhead_blocks, work.block_steps)
            folio, bare = contest.step_series("overhead", pair, period)
            report.series += [add_overhead(folio, bare), bare]
        report.checks += contest.checks()


class Contest:
    """Sides that take turns at one work."""

    def __init__(self, work: Work, config: RunConfig, sides: list[Worker], options: Options) -> None:
        self.work = work
        self.config = config
        self.sides = sides
        self.options = options
        self.tolerance = TOLERANCE if config.trainer.precision == "32-true" else TOLERANCE_BF16
        self.losses: dict[str, list[float]] = {worker.side: [] for worker in sides}
        self.blocks: dict[str, list[dict[str, Any]]] = {worker.side: [] for worker in sides}
        options.say(f"{work.name}: first steps")
        self._round(sides, WARM_UP_STEPS)
        self.forget_times()

    def forget_times(self) -> None:
        self.blocks = {side: [] for side in self.blocks}

    def take_turns(self, sides: Sequence[Worker], rounds: int, block_steps: int) -> None:
        """A B C A B C ..., so many times, each a block of steps."""
        for number in range(rounds):
            self.options.say(f"{self.work.name}: round {number + 1} of {rounds}")
            self._round(sides, block_steps)

    def _round(self, sides: Sequence[Worker], n_steps: int) -> None:
        for worker in sides:
            answer = worker.ask(Command("steps", n_steps))
            self.losses[worker.side] += answer.pop("losses")
            self.blocks[worker.side].append(answer)
        self._check()

    def difference(self, side: str) -> float:
        """From Folio's losses in the first steps."""
        return largest_difference(self.losses["folio"][:N_CHECKED_STEPS], self.losses[side][:N_CHECKED_STEPS])

    def _check(self) -> None:
        for side in self.losses:
            if not (difference := self.difference(side)) <= self.tolerance:
                ours, to_gpt2_state = self.losses["folio"][:N_CHECKED_STEPS], self.losses[side][:N_CHECKED_STEPS]
                step, a, b = next(
                    (step, a, b)
                    for step, (a, b) in enumerate(zip(ours, to_gpt2_state, strict=False), 1)
                    if not abs(a - b) <= self.tolerance
                )
                raise FolioError(
                    f"work {self.work.name}: {TITLES['folio']} and {TITLES[side]} do not compute the same, so their "
                    f"times are no comparison: at step {step} the losses are {a:.6f} and {b:.6f}, and up to there "
                    f"{difference:.2g} apart where {self.tolerance} is allowed"
                )

    def checks(self) -> list[dict[str, Any]]:
        """One for each peer."""
        return [
            {
                "what": f"losses at work {self.work.name}",
                "side": side,
                "largest_difference": self.difference(side),
                "allowed": self.tolerance,
                "n_steps": min(N_CHECKED_STEPS, len(losses)),
                "losses": losses[:N_CHECKED_STEPS],
            }
            for side, losses in self.losses.items()
        ]

    def step_series(self, part: str, sides: Sequence[Worker], period: int) -> list[Series]:
        """Milliseconds of a step, Folio's with its share of a checkpoint."""
        model, n_tokens = self.config.model, self.config.training.batch_size * self.config.model.context_length
        series = []
        for worker in sides:
            blocks = self.blocks[worker.side]
            saves = [save_s for block in blocks for save_s in block["checkpoint_s"]]
            times = step_ms(blocks, saves, period)
            flops = model_flops_per_token(
                n_parameters=worker.facts["n_parameters_without_positions"],
                n_layers=model.n_layers,
                d_model=model.d_model,
                context_length=model.context_length,
            )
            facts = {
                "tokens_per_s": [1e3 * n_tokens / time for time in times],
                "model_gflop_per_s": [n_tokens * flops / (1e6 * time) for time in times],
                "model_flops_per_token": flops,
                "n_parameters": worker.facts["n_parameters"],
                "block_steps": blocks[0]["n_steps"],
                "block_s": [block["elapsed_s"] for block in blocks],
                "idle_cpu_s": [block["idle_cpu_s"] for block in blocks],
                "checkpoint_s": saves,
                "checkpoint_every_steps": period,
                "precision": self.config.trainer.precision,
            }
            series.append(Series(part, self.work.name, TITLES[worker.side], "ms a step", times, facts=facts))
        return series

    def memory_series(self) -> list[Series]:
        """The most that each process has taken, the interpreter and its imports included."""
        series = []
        for worker in self.sides:
            answer = worker.ask(Command("memory"))
            before, gpu = worker.facts["rss_before_bytes"], answer["gpu_peak_bytes"]
            facts = {"rss_before_bytes": before, "gpu_peak_bytes": gpu}
            peak = answer["peak_bytes"] if gpu is None else gpu
            note = f"{before / 2**20:,.0f} MiB before the model was built" if gpu is None else "of the GPU's memory"
            series.append(
                Series("memory", self.work.name, TITLES[worker.side], "MiB", [peak / 2**20], note=note, facts=facts)
            )
        return series


def step_ms(blocks: Sequence[dict[str, Any]], saves_s: Sequence[float], period: int) -> list[float]:
    """Of each block: the steps without their checkpoints, and the share of a checkpoint that falls on a step.

    In a measurement checkpoints come more often than in a run, so that there is one to measure at all.
    """
    share_s = mean(saves_s) / period if saves_s else 0.0
    return [1e3 * ((block["elapsed_s"] - sum(block["checkpoint_s"])) / block["n_steps"] + share_s) for block in blocks]


def add_overhead(folio: Series, bare: Series) -> Series:
    """Folio's series with what it says of the two."""
    per_cent = 100 * (median_ratio(folio.values, bare.values) - 1)
    facts = folio.facts | {"overhead_per_cent": per_cent}
    note = f"overhead {per_cent:+.2f} %, checkpoints included"
    return Series(folio.part, folio.subject, folio.side, folio.unit, folio.values, note, facts)
