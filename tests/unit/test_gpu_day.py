"""A check on a GPU keeps its budgets, writes what it has after each step, and becomes a part of docs/performance.md."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_day import day as gpu_day
from benchmarks.gpu_day.budget import run_within
from benchmarks.gpu_day.carry import describe, missing_packages, with_requirements
from benchmarks.gpu_day.day import run_day
from benchmarks.gpu_day.page import BEGIN, END, PAGE, publish
from benchmarks.gpu_day.steps import GPU_TESTS, ROOT, STEPS, Machine, Step, read_runs, read_tests
from folio.runtime.errors import FolioError

REHEARSAL = Machine(rehearse=True, nanogpt=None)
ON_GPU = Machine(rehearse=False, nanogpt=Path("nanoGPT"))
MEASURED = {"cpu": "a CPU", "cores": 2, "gpu": None, "torch": "2.13.0", "python": "3.11.7"}

INTERRUPTED = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("child", "w").write(str(child.pid))
try:
    time.sleep(600)
except KeyboardInterrupt:
    open("half", "w").write("what was measured")
    time.sleep(600)
"""


def words(code: str) -> list[tuple[str, ...]]:
    """Return a step's commands that run some Python."""
    return [("-m", "timeit", "-n1", "-r1", code)]


def step(name: str, code: str, budget_s: float = 100.0) -> Step:
    return Step(
        name, f"step {name}", budget_s, lambda machine: words(code), lambda folder: {"files": os.listdir(folder)}
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Make the machine have a GPU or none."""

    def pretend(has_gpu: bool) -> None:
        monkeypatch.setattr(gpu_day, "describe", lambda environment: MEASURED | {"has_gpu": has_gpu})

    return pretend


def test_a_command_over_its_budget_may_save_and_is_then_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu_day.budget.GRACE_S", 2.0)
    (tmp_path / "run.py").write_text(INTERRUPTED)
    command = [sys.executable, "run.py"]
    outcome = run_within(command, 3.0, folder=tmp_path, environment=os.environ, log=tmp_path / "log")
    assert outcome.timed_out
    assert outcome.code == -signal.SIGKILL
    assert (tmp_path / "half").read_text() == "what was measured"
    child = Path("/proc", (tmp_path / "child").read_text())
    for _ in range(1000):  # the kernel removes a killed process when it gets to it
        if not child.exists() or "Z" in (child / "stat").read_text().split()[2]:
            break
        time.sleep(0.01)
    else:
        raise AssertionError("its child still runs")


def test_a_step_that_fails_or_takes_too_long_is_reported_and_the_rest_still_runs(
    machine: Callable[[bool], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(False)
    output, seen = tmp_path / "day.json", tmp_path / "seen"
    steps = [
        step("good", "open('result', 'w').close()"),
        step("bad", "raise ValueError('out of order')"),
        step("slow", "import time; time.sleep(600)", budget_s=0.5),
        step("last", f"import shutil; shutil.copy({str(output)!r}, {str(seen)!r}); open('result', 'w').close()"),
    ]
    assert not run_day(steps, REHEARSAL, output)
    day = json.loads(output.read_text())
    records = {record["name"]: record for record in day["steps"]}
    assert [(name, record["status"]) for name, record in records.items()] == [
        ("good", "passed"),
        ("bad", "failed"),
        ("slow", "over budget"),
        ("last", "passed"),
    ]
    assert records["good"]["results"] == {"files": ["result"]}
    assert "out of order" in records["bad"]["output_tail"]
    assert records["slow"]["budget_s"] == 1.5
    assert "out of order" in capsys.readouterr().out
    assert [record["name"] for record in json.loads(seen.read_text())["steps"]] == ["good", "bad", "slow"]


def test_without_a_gpu_one_line_names_the_rehearsal(machine: Callable[[bool], None], tmp_path: Path) -> None:
    machine(False)
    with pytest.raises(FolioError, match="no NVIDIA GPU on this machine; rehearse on the CPU with --rehearse"):
        run_day([], replace(REHEARSAL, rehearse=False), tmp_path / "day.json")


def test_all_steps_together_take_less_than_nine_minutes() -> None:
    assert sum(step.budget_s for step in STEPS.values()) < 540


@pytest.mark.parametrize("where", [ON_GPU, REHEARSAL])
def test_every_command_is_of_a_script_that_exists(where: Machine) -> None:
    for step in STEPS.values():
        for script, *rest in step.commands(where):
            assert (ROOT / script).is_file() or (script == "-m" and rest[0] in ("benchmarks", "pytest"))
            assert ("cpu" in " ".join(rest) or "--rehearse" in rest) == where.rehearse


def test_the_files_with_tests_marked_gpu_are_known() -> None:
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^(pytestmark = |@)pytest\.mark\.gpu$", path.read_text(), re.MULTILINE)
    }
    assert marked == set(GPU_TESTS)


def test_results_are_read_from_pytests_file_and_from_run_folders(tmp_path: Path) -> None:
    assert read_tests(tmp_path) == read_runs(tmp_path) == {}
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite><testcase name="a" time="1.5"/><testcase name="b"><failure/></testcase>'
        '<testcase name="c"><skipped/></testcase></testsuite></testsuites>'
    )
    tests = read_tests(tmp_path)
    assert (tests["passed"], tests["failed"], tests["skipped"]) == (1, 1, 1)
    assert tests["tests"]["a"] == {"outcome": "passed", "seconds": 1.5}
    run = tmp_path / "outputs" / "2026-01-01" / "10-00-00-whole"
    (run / "csv").mkdir(parents=True)
    (run / "preflight.json").write_text("{}")
    (run / "csv" / "metrics.csv").write_text("step,name,value\n250,val/loss_nats,2.1\n250,train/loss_nats,2.0\n")
    assert read_runs(tmp_path) == {"runs": {"whole": {"val_loss_nats": {"250": 2.1}}}}
    (run / "metrics.json").write_text(json.dumps({"status": "finished", "val/loss_nats": 2.0, "seed": 1}))
    whole = read_runs(tmp_path)["runs"]["whole"]
    assert whole == {"status": "finished", "val/loss_nats": 2.0, "val_loss_nats": {"250": 2.1}}


def test_what_a_machine_lacks_is_found_and_what_it_has_is_left_out(tmp_path: Path) -> None:
    assert missing_packages() == []
    assert with_requirements(["no-such-package>=1; python_version >= '3.0'", "typer"])["no-such-package"] is None
    (tmp_path / "list").write_text("Package Version\n------- -------\nhydra_core 1.3.8\ntyper==0.1\n")
    text = describe(tmp_path / "list")
    assert "omegaconf==" in text
    assert "hydra-core==" not in text
    assert " typer==" not in text
    assert "nvidia" not in text
    assert " torch==" not in text


def rehearsed() -> dict[str, Any]:
    """Return the rehearsal that docs/performance.md shows."""
    return json.loads((ROOT / "docs" / "performance" / "gpu_rehearsal.json").read_text())


def test_the_page_is_what_the_file_of_a_check_says(tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "day.json"
    shutil.copy(PAGE, page)
    file.write_text(json.dumps(rehearsed()))
    publish(file, page)
    assert page.read_text() == PAGE.read_text(), "publish it again"
    day = rehearsed()
    day["rehearsal"], day["machine"]["gpu"] = False, "NVIDIA Test"
    failed = {"test_x": {"outcome": "failed", "seconds": 1.0}}
    day["steps"] = [day["steps"][0] | {"results": {"tests": failed, "passed": 0, "failed": 1, "skipped": 0}}]
    file.write_text(json.dumps(day))
    publish(file, page)
    part = page.read_text().partition(BEGIN)[2].partition(END)[0]
    assert "NVIDIA Test" in part
    assert "- failed: `test_x`" in part
    assert "rehearsal" not in part.lower()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 1, "steps": [{}]}'])
def test_a_file_that_is_no_check_is_one_line(content: str, tmp_path: Path) -> None:
    file, page = tmp_path / "day.json", tmp_path / "page.md"
    file.write_text(content)
    page.write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(FolioError) as refused:
        publish(file, page)
    assert "\n" not in str(refused.value)
    assert "day.json" in str(refused.value)
    assert page.read_text() == f"{BEGIN}\n{END}\n"


def test_a_machine_without_folios_packages_says_which(tmp_path: Path) -> None:
    """In a Python that has none of them."""
    environment = {"PATH": os.environ["PATH"], "PYTHONNOUSERSITE": "1"}
    base = Path(sys.base_prefix, "bin", "python3")
    result = subprocess.run(
        [base, "-S", ROOT / "scripts" / "gpu_check.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "hydra-core" in result.stderr or "packaging" in result.stderr
