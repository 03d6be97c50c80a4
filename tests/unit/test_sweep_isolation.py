"""Jobs that run in one process do not affect each other, and record how they ended."""

import io
import json
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from folio.runtime.console import LogFile, log, start_log
from folio.runtime.files import lock_folder
from folio.runtime.terminal import NumberedLines, job_number
from folio.sweeps import manifest, worker
from folio.sweeps.isolation import isolated
from folio.sweeps.planning import Job
from folio.sweeps.runner import forward_signals
from folio.sweeps.worker import clear_folder, run_job


def process_state() -> dict[str, object]:
    """Return the state of this process that a job could change."""
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "hook": threading.excepthook,
        "streams": (sys.stdout, sys.stderr),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.random.get_rng_state().tolist(),
        "log": [handler for handler in log.handlers if isinstance(handler, LogFile)],
    }


def change_everything(folder: Path) -> None:
    os.environ["FOLIO_TEST"] = "1"
    del os.environ["PATH"]
    os.chdir(folder)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.excepthook = print
    sys.stdout = io.StringIO()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.autograd.set_detect_anomaly(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    start_log(folder / "train.log")


@pytest.mark.parametrize("error", [None, ValueError, SystemExit])
def test_a_job_leaves_the_process_unchanged_however_it_ends(error: type[BaseException] | None, tmp_path: Path) -> None:
    before = process_state()
    with pytest.raises(error) if error else nullcontext(), isolated():
        change_everything(tmp_path)
        assert all(process_state()[key] != before[key] for key in before)
        if error:
            raise error
    assert process_state() == before


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of one job, seed=1, without Hydra."""
    monkeypatch.setattr(worker, "task_overrides", lambda: ["seed=1"])
    manifest.create_manifest(tmp_path, [])
    manifest.add_jobs(tmp_path, [Job("seed=1", ("seed=1",))], [])
    (tmp_path / "seed=1").mkdir()
    return tmp_path


def status(sweep: Path) -> str:
    return str(manifest.read_manifest(sweep)["jobs"][0]["status"])


@pytest.mark.parametrize(
    ("error", "line", "has_traceback"),
    [
        (ZeroDivisionError("one\ntwo"), "ZeroDivisionError: one", True),
        (MemoryError(), "out of memory (MemoryError); ", False),
        (RecursionError("x" * 9999), "RecursionError: x", True),
        (ValueError("\x1b[2J"), "ValueError: \\x1b[2J", True),
        (
            FileNotFoundError(2, "No such file", "a.txt"),
            "a.txt: No such file; fix this and rerun the command",
            False,
        ),
    ],
)
def test_any_error_is_one_line_in_metrics_json_and_does_not_end_the_sweep(
    error: Exception, line: str, has_traceback: bool, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def task() -> None:
        assert status(sweep) == "running"
        raise error

    run_job(task, sweep / "seed=1", seed=1)
    assert status(sweep) == "failed"
    metrics = json.loads((sweep / "seed=1" / "metrics.json").read_text())
    assert (metrics["status"], metrics["seed"]) == ("failed", 1)
    assert metrics["error"].startswith(line)
    assert len(metrics["error"]) <= 500
    assert json.loads((sweep / "seed=1" / "overrides.json").read_text()) == ["seed=1"]
    assert ("Traceback" in (sweep / "seed=1" / "train.log").read_text()) == has_traceback
    printed = capsys.readouterr()
    assert printed.out == "job 1 of 1: seed=1\n"
    assert printed.err.startswith(f"error: job 1: {line}"[:40])
    assert printed.err.count("\n") == 1


def test_a_signal_ends_the_sweep(sweep: Path) -> None:
    def task() -> None:
        (sweep / "seed=1" / "metrics.json").write_text('{"status": "interrupted"}')
        raise SystemExit(130)

    with pytest.raises(SystemExit):
        run_job(task, sweep / "seed=1", seed=1)
    assert status(sweep) == "interrupted"


def test_no_job_starts_while_the_sweep_is_stopping(sweep: Path) -> None:
    (sweep / ".stopping").touch()
    run_job(lambda: pytest.fail("it started"), sweep / "seed=1", seed=1)
    assert status(sweep) == "missing"


def test_a_job_that_another_process_is_training_is_skipped(sweep: Path) -> None:
    manifest.set_status(sweep, "seed=1", "running", pid=1)
    (sweep / "seed=1" / "train.log").touch()
    with lock_folder(sweep / "seed=1", "training"):
        run_job(lambda: pytest.fail("it started"), sweep / "seed=1", seed=1)
    assert (sweep / "seed=1" / "train.log").exists()
    assert manifest.read_manifest(sweep)["jobs"][0]["pid"] == 1


def test_only_rank_zero_of_a_job_records_its_status(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEP_ID": "0", "NTASKS": "2", "PROCID": "1", "LOCALID": "1", "NTASKS_PER_NODE": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    ran = []
    run_job(lambda: ran.append(1), sweep / "seed=1", seed=1)
    assert ran == [1]
    assert status(sweep) == "missing"


def test_an_attempt_without_a_checkpoint_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "job" / "csv").mkdir(parents=True)
    (tmp_path / "job" / "csv" / "metrics.csv").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "job" / "link").symlink_to(tmp_path / "elsewhere")
    clear_folder(tmp_path / "job")
    assert list((tmp_path / "job").iterdir()) == []
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_lines_of_parallel_jobs_are_whole_and_numbered() -> None:
    stream = io.StringIO()
    numbered: Callable[[str], int] = NumberedLines(stream, 3).write
    for text in ("a", "b\nc", "\n", "\nd"):
        numbered(text)
    assert stream.getvalue() == "[3] ab\n[3] c\n[3] \n"
    assert (job_number(NumberedLines(stream, 3)), job_number(stream)) == (3, None)


def test_a_signal_is_forwarded_to_the_running_jobs(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    manifest.set_status(sweep, "seed=1", "running", pid=123456)
    before = signal.getsignal(signal.SIGTERM)
    with forward_signals(sweep) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
        assert (sweep / ".stopping").exists()
    assert sent == [(123456, signal.SIGTERM)]
    assert not (sweep / ".stopping").exists()
    assert signal.getsignal(signal.SIGTERM) is before
