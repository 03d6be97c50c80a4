"""The parts `step`, `overhead` and `memory`: training steps of all contenders in turn, on the workloads."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.contenders.process import Worker, scratch_folder, start_workers
from benchmarks.contenders.protocol import Command
from benchmarks.contenders.selection import TITLES
from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series
from benchmarks.report.statistics import largest_difference
from benchmarks.workloads import Workload
from folio.config.run import RunConfig
from folio.runtime.errors import FolioError

WARM_UP_STEPS = 2
"""Steps that are not timed: the first allocates the gradients, the second finds the optimizer's moments in place."""

N_CHECKED_STEPS = 5
"""First steps whose losses must agree: the initial one, and after a few updates. Later, rounding errors grow."""

TOLERANCE = 1e-4
TOLERANCE_BF16 = 2e-2
"""bf16 has three digits, and a compiled graph rounds in other places than an eager one."""

OVERHEAD_PEERS = ("bare", "lightning")
"""Contenders to compare with in the part `overhead`: no framework, and Lightning with nothing around it."""

TRAINING_PARTS = ("step", "overhead", "memory")


def measure_workloads(
    workloads: Iterable[Workload], parts: Sequence[str], options: Options, report: BenchmarkReport
) -> None:
    """Add the series of those of TRAINING_PARTS that are in `parts`.

    `step` and `memory` use the same processes, and `overhead` continues with two of them. Raises: FolioError if two
    contenders compute different losses.
    """
    for workload in workloads:
        with_peers = "step" in parts or "memory" in parts
        with_overhead = "overhead" in parts and workload.overhead_blocks > 0
        if not with_peers and not with_overhead:
            continue
        config = options.compose([*workload.overrides, *options.overrides])
        assert config.model.vocab_size is not None
        peers, reasons = options.peers.supporting(config.transformer_config(config.model.vocab_size))
        report.skip(reasons)
        peers = peers if with_peers else []
        if with_overhead:
            peers = [*OVERHEAD_PEERS, *(peer for peer in peers if peer not in OVERHEAD_PEERS)]
        with scratch_folder() as folder:
            measure_workload(workload, config, peers, parts, options, report, folder)


def measure_workload(
    workload: Workload,
    config: RunConfig,
    peers: Sequence[str],
    parts: Sequence[str],
    options: Options,
    report: BenchmarkReport,
    folder: Path,
) -> None:
    """Measure Folio and its peers on one workload."""
    checkpoint_period = config.training.checkpoint_every_steps
    n_timed = workload.block_steps * (1 if workload.checkpoint_each_block else options.rounds)
    training = config.training.model_copy(update={"checkpoint_every_steps": n_timed})
    config = config.model_copy(update={"training": training})
    names = ("folio", *peers)
    options.say(f"{workload.name}: starting {', '.join(TITLES[name] for name in names)}")
    with start_workers([options.spec(config, folder, name) for name in names]) as workers:
        comparison = TrainingComparison(workload, config, workers, options)
        if "step" in parts or "memory" in parts:
            compared = [worker for worker in workers if worker.contender != "lightning"]
            comparison.run_rounds(compared, options.rounds)
        if "step" in parts:
            report.series += comparison.step_series("step", compared, checkpoint_period)
        if "memory" in parts:
            report.series += comparison.memory_series(compared)
        if "overhead" in parts and workload.overhead_blocks:
            by_name = {worker.contender: worker for worker in workers}
            turns = [by_name[name] for name in ("folio", *OVERHEAD_PEERS)]
            comparison.discard_times()
            comparison.run_rounds(turns, options.rounds * workload.overhead_blocks)
            folio, bare, lightning = comparison.step_series("overhead", turns, checkpoint_period)
            report.series += [add_overhead(folio, bare), bare, add_overhead(lightning, bare)]
        report.checks += comparison.loss_checks()


class TrainingComparison:
    """Lets contenders train in turns on one workload, collects their times, and checks that their losses agree."""

    def __init__(self, workload: Workload, config: RunConfig, workers: list[Worker], options: Options) -> None:
        self.workload = workload
        self.config = config
        self.workers = workers
        self.options = options
        self.tolerance = TOLERANCE if config.trainer.precision == "32-true" else TOLERANCE_BF16
        self.losses: dict[str, list[float]] = {worker.contender: [] for worker in workers}
        self.blocks: dict[str, list[dict[str, Any]]] = {worker.contender: [] for worker in workers}
        options.say(f"{workload.name}: warm-up")
        self._run_round(workers, WARM_UP_STEPS)
        self.discard_times()

    def discard_times(self) -> None:
        self.blocks = {name: [] for name in self.blocks}

    def run_rounds(self, workers: Sequence[Worker], rounds: int) -> None:
        """Let each worker train one block of steps per round: A B C A B C ..."""
        for number in range(rounds):
            self.options.say(f"{self.workload.name}: round {number + 1} of {rounds}")
            self._run_round(workers, self.workload.block_steps)

    def _run_round(self, workers: Sequence[Worker], n_steps: int) -> None:
        for worker in workers:
            reply = worker.ask(Command("steps", n_steps))
            self.losses[worker.contender] += reply.pop("losses")
            self.blocks[worker.contender].append(reply)
        for name in self.losses:
            self._check_losses(name)

    def loss_difference(self, name: str) -> float:
        """Return how far a contender's first losses are from Folio's, at most."""
        return largest_difference(self.losses["folio"][:N_CHECKED_STEPS], self.losses[name][:N_CHECKED_STEPS])

    def _check_losses(self, name: str) -> None:
        if (difference := self.loss_difference(name)) <= self.tolerance:
            return
        pairs = enumerate(zip(self.losses["folio"], self.losses[name], strict=False), 1)
        step, ours, other = next((step, a, b) for step, (a, b) in pairs if not abs(a - b) <= self.tolerance)
        raise FolioError(
            f"workload {self.workload.name}: {TITLES['folio']} and {TITLES[name]} do not compute the same, so their "
            f"times are not comparable: at step {step} the losses are {ours:.6f} and {other:.6f}, and up to there they "
            f"differ by up to {difference:.2g}, more than the {self.tolerance} allowed"
        )

    def loss_checks(self) -> list[dict[str, Any]]:
        """Return a record for each contender of how far its losses are from Folio's."""
        return [
            {
                "what": f"losses on workload {self.workload.name}",
                "contender": name,
                "largest_difference": self.loss_difference(name),
                "allowed": self.tolerance,
                "n_steps": min(N_CHECKED_STEPS, len(losses)),
                "losses": losses[:N_CHECKED_STEPS],
            }
            for name, losses in self.losses.items()
        ]

    def step_series(self, part: str, workers: Sequence[Worker], checkpoint_period: int) -> list[Series]:
        """Return the milliseconds per step, Folio's with its share of a checkpoint."""
        from folio.models.flops import model_flops_per_token  # imports torch, which wrong arguments need not wait for

        model, n_tokens = self.config.model, self.config.training.batch_size * self.config.model.context_length
        series = []
        for worker in workers:
            n_graphs = worker.ask(Command("memory"))["n_graphs"]
            blocks = self.blocks[worker.contender]
            checkpoint_s = [seconds for block in blocks for seconds in block["checkpoint_s"]]
            times = step_times_ms(blocks, checkpoint_s, checkpoint_period)
            flops = model_flops_per_token(
                n_parameters=worker.facts["n_parameters_without_positions"],
                width=model.d_model,
                n_keys=model.n_layers * model.context_length,
            )
            facts = {
                "tokens_per_s": [1e3 * n_tokens / time for time in times],
                "model_gflop_per_s": [n_tokens * flops / (1e6 * time) for time in times],
                "model_flops_per_token": flops,
                "n_parameters": worker.facts["n_parameters"],
                "block_steps": blocks[0]["n_steps"],
                "block_s": [block["elapsed_s"] for block in blocks],
                "idle_cpu_s": [block["idle_cpu_s"] for block in blocks],
                "checkpoint_s": checkpoint_s,
                "checkpoint_every_steps": checkpoint_period,
                "precision": self.config.trainer.precision,
                "device": "cuda" if self.config.trainer.accelerator == "gpu" else "cpu",
                "n_graphs": n_graphs,
            }
            title = TITLES[worker.contender]
            note = f"graphs compiled: {n_graphs}" if n_graphs else ""
            series.append(Series(part, self.workload.name, title, "ms/step", times, note, facts))
        return series

    def memory_series(self, workers: Sequence[Worker]) -> list[Series]:
        """Return the peak memory of each process, including the interpreter and its imports."""
        series = []
        for worker in workers:
            reply = worker.ask(Command("memory"))
            before, gpu = worker.facts["rss_before_bytes"], reply["gpu_peak_bytes"]
            facts = {"rss_before_bytes": before, "gpu_peak_bytes": gpu}
            peak = reply["peak_bytes"] if gpu is None else gpu
            note = f"{before / 2**20:,.0f} MiB before the model was built" if gpu is None else "GPU memory"
            title = TITLES[worker.contender]
            series.append(Series("memory", self.workload.name, title, "MiB", [peak / 2**20], note, facts))
        return series


def step_times_ms(blocks: Sequence[dict[str, Any]], checkpoint_s: Sequence[float], period: int) -> list[float]:
    """Return for each block the time per step without checkpoints, plus the share of a checkpoint per step.

    A measurement saves more often than a run, which saves every `period` steps, so that there is a save to measure.
    """
    share_s = mean(checkpoint_s) / period if checkpoint_s else 0.0
    return [1e3 * ((block["elapsed_s"] - sum(block["checkpoint_s"])) / block["n_steps"] + share_s) for block in blocks]


def add_overhead(series: Series, bare: Series) -> Series:
    """Return a series with its overhead over the bare loop in its note and facts."""
    per_cent = 100 * (1 / series.advantage_over(bare) - 1)
    included = ", checkpoints included" if series.facts["checkpoint_s"] else ""
    return replace(
        series, note=f"overhead {per_cent:+.2f} %{included}", facts=series.facts | {"overhead_per_cent": per_cent}
    )
