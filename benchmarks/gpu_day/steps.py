"""The steps of a check on a GPU: commands of this checkout, and what is read from the files that they leave.

Each step has a rehearsal: the same commands on the CPU, with sizes so small that two cores take a few minutes for all.
Imports no torch.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
DATA = f"paths.data_dir={ROOT / 'data'}"

REHEARSAL_FACTOR = 3.0
"""How much longer a step may take when it is rehearsed on two cores."""

GPU_TESTS = ("tests/unit/test_placement.py", "tests/e2e/test_gpu.py")
"""Files of the tests marked gpu. All others need packages that such a machine may lack."""

NUMBERS = "numbers.json"
TESTS = "tests.xml"


@dataclass(frozen=True)
class Machine:
    """Where a check runs."""

    rehearse: bool
    """Whether it runs on the CPU, with tiny sizes."""
    nanogpt: Path | None
    """Checkout of nanoGPT to compare with."""

    def choose(self, on_gpu: Sequence[str], rehearsed: Sequence[str]) -> tuple[str, ...]:
        return tuple(rehearsed if self.rehearse else on_gpu)


@dataclass(frozen=True)
class Step:
    """Commands that run one after another in an empty folder, and the results that they leave there."""

    name: str
    title: str
    budget_s: float
    """Time that all its commands may take together on an H200."""
    commands: Callable[[Machine], list[tuple[str, ...]]]
    """Words after `python`; the first is a script of this checkout, or -m."""
    read: Callable[[Path], dict[str, Any]]
    """Returns what is known of the results, also of a step that was interrupted: {} if nothing is."""


def pytest_words(machine: Machine, selection: str, n_workers: int) -> tuple[str, ...]:
    """Return the words that run the tests marked gpu whose names match an expression."""
    return (
        *("-m", "pytest", *(str(ROOT / name) for name in GPU_TESTS)),
        *(f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}"),
        *("-p", "no:cacheprovider", "-q", "-m", "gpu", "-k", selection, f"--junitxml={TESTS}"),
        *("--numprocesses", str(2 if machine.rehearse else n_workers), "--dist", "load"),
        *machine.choose((), ("--rehearse",)),
    )


def read_tests(folder: Path) -> dict[str, Any]:
    """Return the outcome of each test, from pytest's file in JUnit's format."""
    file = folder / TESTS
    if not file.is_file():
        return {}
    tests = {}
    for case in ElementTree.parse(file).iter("testcase"):
        bad = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome = {"failure": "failed", "error": "failed", "skipped": "skipped", None: "passed"}[bad]
        tests[str(case.get("name"))] = {"outcome": outcome, "seconds": float(case.get("time", 0.0))}
    outcomes = [test["outcome"] for test in tests.values()]
    return {"tests": tests} | {name: outcomes.count(name) for name in ("passed", "failed", "skipped")}


TINY = ("tokenizer=char", "model.n_heads=2", "model.d_model=64")


def benchmark_words(machine: Machine, *parts: str, rounds: int, rehearsed: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the words that run parts of the benchmark."""
    peers = ("bare", "nanogpt") if machine.nanogpt else ("bare",)
    compared = ("--nanogpt", str(machine.nanogpt)) if machine.nanogpt else ()
    smaller = ("trainer.accelerator=cpu", *TINY, *rehearsed)
    overrides = (DATA, *machine.choose(("trainer.accelerator=gpu",), smaller))
    return (
        *("-m", "benchmarks", *parts, "--output", NUMBERS, "--peers", ",".join(peers), *compared),
        *("--rounds", *machine.choose([str(rounds)], ["1"]), *machine.choose((), ("--threads", "1"))),
        *(word for override in overrides for word in ("--set", override)),
    )


ONE_BLOCK = ("model.context_length=64", "training.batch_size=2", "model.n_layers=1")
"""A CPU compiles each block of nanoGPT for half a minute."""

SHORT_STEPS = ("model.context_length=64", "training.batch_size=2", "model.n_layers=2")


def read_numbers(folder: Path) -> dict[str, Any]:
    """Return the report of the benchmark."""
    file = folder / NUMBERS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def train_words(machine: Machine, name: str, *overrides: str) -> tuple[str, ...]:
    """Return the words that train a run under a name of its own, with its curves in a CSV file."""
    return ("train.py", *overrides, DATA, f"name={name}", "logger=csv", "callbacks.samples.max_new_tokens=0")


def sharding_commands(machine: Machine) -> list[tuple[str, ...]]:
    """GPT-2 small, whole and as the only shard of one device: what sharding costs where there is nothing to gain."""
    size = machine.choose(
        ("model=gpt2_small", "model.dropout=0.0", "training.max_steps=60", "trainer.precision=bf16-mixed"),
        ("model=debug", "tokenizer=char", "training.max_steps=60"),
    )
    common = (
        *("trainer.devices=1", "trainer.activation_checkpointing=false", "schedule.warmup_steps=10"),
        *("training.validate_every_steps=60", "training.checkpoint_every_steps=30", "training.log_every_steps=5"),
    )
    whole, shard = machine.choose(("gpu", "fsdp"), ("cpu", "fsdp_cpu"))
    return [
        train_words(machine, "whole", *size, f"trainer={whole}", *common),
        train_words(machine, "shard", *size, f"trainer={shard}", *common),
    ]


RESULTS = ("status", "step", "val/loss_nats", "train/tokens_per_s", "peak_memory_bytes", "mfu", "elapsed_s", "device")
"""Keys of metrics.json that a check keeps, as far as a run has them."""


def read_runs(folder: Path) -> dict[str, Any]:
    """Return for each run its results and its validation curve."""
    runs = {}
    for run in sorted(folder.glob("outputs/*/*")):
        if not (run / "preflight.json").is_file():
            continue
        name = run.name.rpartition("-")[2]
        results: dict[str, Any] = {}
        if (run / "metrics.json").is_file():
            measured = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            results = {key: measured[key] for key in RESULTS if key in measured}
        runs[name] = results | {"val_loss_nats": read_curve(run, "val/loss_nats")}
    return {"runs": runs} if runs else {}


def read_curve(run: Path, name: str) -> dict[str, float]:
    """Return the points of a curve from the CSV file of a run, by step."""
    file = run / "csv" / "metrics.csv"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as rows:
        return {row["step"]: float(row["value"]) for row in csv.DictReader(rows) if row["name"] == name}


def shakespeare_commands(machine: Machine) -> list[tuple[str, ...]]:
    """Train nanoGPT's recipe for characters for a minute; its log says 2.06 nats after 250 steps."""
    seconds, changes = machine.choose(
        ("00:00:01:00", "trainer=gpu"),
        ("00:00:00:20", "trainer=cpu"),
    )
    smaller = machine.choose((), (*TINY, *SHORT_STEPS))
    return [
        train_words(
            machine,
            "shakespeare",
            *("experiment=nanogpt_shakespeare_char", *smaller, changes, "training.log_every_steps=50"),
            *("callbacks=[default,timer]", f"callbacks.timer.duration='{seconds}'"),
        )
    ]


STEPS = {
    step.name: step
    for step in (
        Step(
            "tests",
            "the tests marked gpu",
            95,
            lambda machine: [pytest_words(machine, "not same_bits", 6)],
            read_tests,
        ),
        Step(
            "resume",
            "a killed run ends in the same bits, in deterministic mode",
            60,
            lambda machine: [pytest_words(machine, "same_bits", 2)],
            read_tests,
        ),
        Step(
            "eager",
            "training steps of GPT-2 small, context 1,024, bf16",
            65,
            lambda machine: [
                benchmark_words(machine, "step", "memory", "--work", "f", rounds=3, rehearsed=SHORT_STEPS)
            ],
            read_numbers,
        ),
        Step(
            "compiled",
            "the same, compiled, and what train.py adds to a bare loop",
            130,
            lambda machine: [
                benchmark_words(machine, "step", "memory", "overhead", "--work", "e", rounds=3, rehearsed=ONE_BLOCK)
            ],
            read_numbers,
        ),
        Step(
            "generation",
            "GPT-2 small generates 64 and 256 tokens",
            55,
            lambda machine: [benchmark_words(machine, "generation", rounds=2, rehearsed=("model.n_layers=2",))],
            read_numbers,
        ),
        Step("sharding", "FSDP2 on one device, beside the whole model", 50, sharding_commands, read_runs),
        Step(
            "shakespeare",
            "a minute of nanogpt_shakespeare_char",
            80,
            shakespeare_commands,
            read_runs,
        ),
    )
}
"""By name, in the order in which they run."""
