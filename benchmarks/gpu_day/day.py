"""Run the steps of a check, each within its budget, and write the JSON file after each."""

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders.process import scratch_folder
from benchmarks.gpu_day.budget import Outcome, run_within
from benchmarks.gpu_day.steps import REHEARSAL_FACTOR, ROOT, Machine, Step
from folio.runtime.errors import FolioError
from folio.runtime.files import write_json
from folio.runtime.version import git_commit

FORMAT = 1
"""Version of the JSON file."""

DESCRIBE = (
    "import json, torch; from benchmarks.parts.hardware import describe_machine; "
    "print(json.dumps(describe_machine(None) | {'has_gpu': torch.cuda.is_available()}))"
)


def describe(environment: dict[str, str]) -> dict[str, Any]:
    """Describe the machine, in a process of its own: this one must not hold any memory of a GPU. Raises: FolioError."""
    words = [sys.executable, "-c", DESCRIBE]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise FolioError(f"PyTorch cannot describe this machine: {(result.stderr.splitlines() or ['no error'])[-1]}")
    described: dict[str, Any] = json.loads(result.stdout)
    return described


def child_environment() -> dict[str, str]:
    """Return the environment of the commands: they find this checkout, installed or not."""
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    removed = ("FOLIO_", "HYDRA_", "SLURM_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(removed)}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def run_day(steps: Sequence[Step], machine: Machine, output: Path) -> bool:
    """Run the steps. Returns whether all passed. Raises: FolioError if this machine has no GPU to check."""
    environment = child_environment()
    described = describe(environment)
    if not described.pop("has_gpu") and not machine.rehearse:
        raise FolioError("PyTorch sees no NVIDIA GPU on this machine; rehearse on the CPU with --rehearse")
    day: dict[str, Any] = {
        "format": FORMAT,
        "rehearsal": machine.rehearse,
        "machine": described,
        "git_commit": git_commit(digits=12),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "steps": [],
    }
    started = time.perf_counter()
    for number, step in enumerate(steps, start=1):
        budget_s = step.budget_s * (REHEARSAL_FACTOR if machine.rehearse else 1)
        print(f"{number} of {len(steps)}: {step.name}, {step.title}; at most {budget_s:.0f} s", flush=True)
        record = run_step(step, machine, budget_s, environment)
        day["steps"].append(record)
        day["seconds"] = time.perf_counter() - started
        write_json(output, day)
        print(f"    {record['status']} in {record['seconds']:.0f} s", flush=True)
        if record["status"] != "passed":
            print("\n".join(f"    | {line}" for line in record["output_tail"].splitlines()[-8:]), flush=True)
    return all(record["status"] == "passed" for record in day["steps"])


def run_step(step: Step, machine: Machine, budget_s: float, environment: dict[str, str]) -> dict[str, Any]:
    """Run a step's commands until one fails or the time is over. Returns its record in the JSON file."""
    started, outcome = time.perf_counter(), Outcome(0, timed_out=False, output_tail="")
    with scratch_folder() as folder:
        work = folder / "work"
        work.mkdir()
        commands = step.commands(machine)
        for words in commands:
            left_s = budget_s - (time.perf_counter() - started)
            script = words[0] if words[0] == "-m" else str(ROOT / words[0])
            outcome = run_within(
                [sys.executable, script, *words[1:]], left_s, folder=work, environment=environment, log=folder / "log"
            )
            if outcome.code or outcome.timed_out:
                break
        seconds = time.perf_counter() - started
        try:
            results, problem = step.read(work), ""
        except (ValueError, KeyError, OSError) as error:  # a file that was not finished
            results, problem = {}, f"\nresults cannot be read: {error}"
    passed = not outcome.code and not outcome.timed_out and bool(results)
    return {
        "name": step.name,
        "title": step.title,
        "status": "passed" if passed else "over budget" if outcome.timed_out else "failed",
        "seconds": seconds,
        "budget_s": budget_s,
        "commands": [from_checkout(" ".join(("python", *words))) for words in commands],
        "output_tail": "" if passed else from_checkout(outcome.output_tail + problem),
        "results": results,
    }


def from_checkout(text: str) -> str:
    """Return a text with the paths of this checkout as seen from its folder: the file is meant to be published."""
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
