"""The part `busy`: a training step beside processes that never pause, by the number of threads and how they wait."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.contenders.process import scratch_folder, start_workers
from benchmarks.contenders.protocol import Command
from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series

N_COMPETITORS = (0, 1, 2, 4)
BLOCK_STEPS = 12
WARM_UP_STEPS = 3


ENDLESS_QUICKSTART = (
    "experiment=quickstart",
    "training.max_steps=1000000",
    "training.validate_every_steps=1000000",
    "training.checkpoint_every_steps=1000000",
)


@dataclass(frozen=True)
class Policy:
    """How many threads a run has, and how they wait for work."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    threads: int | None = None


POLICIES = (
    Policy("folio"),
    Policy("torch's default", {"GOMP_SPINCOUNT": "300000"}),
    Policy("always asleep", {"OMP_WAIT_POLICY": "passive"}),
    Policy("one thread", threads=1),
)


def measure_busy(options: Options, report: BenchmarkReport) -> None:
    """Add the milliseconds of a step of `make train` for each policy, beside so many busy processes."""
    config = options.compose([*ENDLESS_QUICKSTART, *options.overrides])
    with scratch_folder() as folder:
        specs = [
            options.spec(
                config,
                folder / str(number),
                "folio",
                weights=None,
                threads=policy.threads,
                environment=policy.environment,
            )
            for number, policy in enumerate(POLICIES)
        ]
        times: dict[tuple[int, str], list[float]] = {}
        with start_workers(specs) as workers:
            for worker in workers:
                worker.ask(Command("steps", WARM_UP_STEPS))
            for number in range(options.rounds):
                for n_competitors in N_COMPETITORS:
                    options.say(f"busy: round {number + 1} of {options.rounds}, {n_competitors} competitors")
                    with competitors(n_competitors):
                        for policy, worker in zip(POLICIES, workers, strict=True):
                            elapsed_s = worker.ask(Command("steps", BLOCK_STEPS))["elapsed_s"]
                            times.setdefault((n_competitors, policy.name), []).append(1e3 * elapsed_s / BLOCK_STEPS)
    for (n_competitors, policy_name), step_ms in times.items():
        report.series.append(Series("busy", f"beside {n_competitors}", policy_name, "ms/step", step_ms))


@contextmanager
def competitors(n: int) -> Iterator[None]:
    """Keep n processes busy meanwhile, each with one thread that never waits."""
    with ExitStack() as stack:
        for _ in range(n):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
