"""The garbage collector pauses during the imports only; a signal at exit changes nothing."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import gc, sys
from types import ModuleType
from folio.runtime.startup import fast_imports
n_before = gc.get_freeze_count()  # Python 3.12 freezes some itself
"""


def output_of(code: str) -> list[str]:
    """Run code in a fresh Python, because this one has already imported torch."""
    result = subprocess.run([sys.executable, "-c", PROGRAM + code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("ending", ["pass", "raise ValueError"])
def test_the_collector_pauses_during_the_imports_and_runs_after_them(ending: str) -> None:
    code = f"""
try:
    with fast_imports():
        print(gc.isenabled())
        {ending}
except ValueError:
    print("raised")
print(gc.isenabled(), gc.get_freeze_count() > n_before)
"""
    raised = ["raised"] if "raise" in ending else []
    assert output_of(code) == ["False", *raised, "True", "True"]


def test_a_later_job_of_a_sweep_freezes_nothing() -> None:
    code = """
sys.modules["torch"] = ModuleType("torch")
with fast_imports():
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count() == n_before)
"""
    assert output_of(code) == ["True", "True", "True"]


def test_a_collector_that_was_off_stays_off() -> None:
    assert output_of("gc.disable()\nwith fast_imports():\n    pass\nprint(gc.isenabled())") == ["False"]


WITH_TORCH = {
    "folio.distributed.devices",
    "folio.distributed.strategies",
    "folio.runs.checkpoints",
    "folio.training.assembly",
    "folio.training.context",
    "folio.training.plugins",
    "folio.training.run",
}


def test_training_imports_torch_and_lightning_only_inside_fast_imports() -> None:
    tree = ast.parse((ROOT / "src" / "folio" / "api" / "command.py").read_text())
    withs = (node for node in ast.walk(tree) if isinstance(node, ast.With))
    (block,) = (node for node in withs if ast.unparse(node.items[0]) == "fast_imports()")
    inside, everywhere = (
        {node.module for node in ast.walk(part) if isinstance(node, ast.ImportFrom) and node.module in WITH_TORCH}
        for part in (block, tree)
    )
    assert inside == everywhere == WITH_TORCH


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [0, 130])
def test_a_signal_at_exit_does_not_change_the_exit_code(number: signal.Signals, code: int) -> None:
    program = f"""
import atexit, os, signal, sys
from folio.runtime.signals import exit_on_signals, ignore_signals_at_exit
exit_on_signals()
atexit.register(os.kill, os.getpid(), {int(number)})  # as libraries let go of what they hold
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):  # when Python has already let go of our handlers
        kill(pid, {int(number)})
late = Late()
with ignore_signals_at_exit():
    sys.exit({code})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
