"""The part `busy`: a training step beside processes that never pause, by the number of threads and how they wait."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.contenders.process import Worker, scratch_folder, start_workers
from benchmarks.contenders.protocol import Command
from benchmarks.options import Options
from benchmarks.report.results import BenchmarkReport, Series

N_COMPETITORS = (0, 1, 2, 4)
WARM_UP_STEPS = 3
BLOCK_STEPS = 2
LEAD_IN_S = 1.5
"""How long a run works untimed when its turn comes, because Folio looks at the machine twice a second."""
TIMED_S = 1.5
"""For how long at least its steps are timed."""

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
                            work_for(LEAD_IN_S, worker)
                            step_ms = 1e3 * work_for(TIMED_S, worker)
                            times.setdefault((n_competitors, policy.name), []).append(step_ms)
    for (n_competitors, policy_name), milliseconds in times.items():
        report.series.append(Series("busy", f"beside {n_competitors}", policy_name, "ms/step", milliseconds))


def work_for(seconds: float, worker: Worker) -> float:
    """Let a worker train for so long at least, and return the seconds of a step."""
    n_steps, elapsed_s = 0, 0.0
    while elapsed_s < seconds:
        elapsed_s += worker.ask(Command("steps", BLOCK_STEPS))["elapsed_s"]
        n_steps += BLOCK_STEPS
    return elapsed_s / n_steps


@contextmanager
def competitors(n: int) -> Iterator[None]:
    """Keep n processes busy meanwhile, each with one thread that never waits."""
    with ExitStack() as stack:
        for _ in range(n):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
