"""How many processors a process may use, how long they have worked, and when a run says that the machine is busy."""

import os
from pathlib import Path

import pytest

from folio.runtime import cpus


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1), ("6400000 100000", 8), ("nonsense", 8), ("1 0", 8)],
)
def test_a_container_limits_the_processors(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "allowed_cpus", lambda: frozenset(range(8)))
    (tmp_path / "cpu.max").write_text(limit)
    assert cpus.available_cpus(tmp_path) == expected
    assert cpus.available_cpus(tmp_path / "absent") == 8


def test_the_time_worked_is_known_for_each_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a disk is no work; what a virtual machine wanted and did not get is."""
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu 9 9 9 9\ncpu0 100 0 50 900 70 0 0 0 0 0\ncpu1 5000 0 0 0\ncpu2 0 10 0 0 0 20 30 40 0 0\nintr 1\n"
    )
    assert cpus.worked_seconds(stat) == {0: 1.5, 1: 50.0, 2: 1.0}
    for text in ("", "cpu0 nonsense"):
        stat.write_text(text)
        assert cpus.worked_seconds(stat) == {}
    assert cpus.worked_seconds(tmp_path / "absent") == {}


def test_a_busy_machine_is_described_and_a_quiet_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for n_threads, load in ((4, 0.3), (4, 0.8), (2, 2.0), (1, 3.5), (4, 0.0)):
        assert cpus.describe_overload(n_threads, load) is None
    assert cpus.describe_overload(2, 3.0) == (
        "this machine is busy: 3.0 other threads and 2 of this run share 4 processors, so it is slower than it would "
        "be alone"
    )
    assert cpus.describe_overload(4, 1.0) is not None
