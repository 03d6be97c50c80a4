"""How many processors a process may use, how its threads wait, and when it says that the machine is busy."""

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
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)
    (tmp_path / "cpu.max").write_text(limit)
    assert cpus.available_cpus(tmp_path) == expected
    assert cpus.available_cpus(tmp_path / "absent") == 8


def test_idle_threads_sleep_soon_unless_the_user_has_chosen() -> None:
    environment: dict[str, str] = {}
    cpus.bound_spinning(environment)
    assert environment == {"GOMP_SPINCOUNT": cpus.SPIN_COUNT}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        chosen = {name: "active"}
        cpus.bound_spinning(chosen)
        assert chosen == {name: "active"}


def test_a_busy_machine_is_described_and_a_quiet_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for n_threads, load in ((4, 0.3), (4, 0.8), (2, 2.0), (1, 3.5), (4, 0.0)):
        assert cpus.describe_overload(n_threads, load) is None
    assert cpus.describe_overload(2, 3.0) == (
        "this machine is busy: 3.0 other threads and 2 of this run share 4 processors, so it is slower than it would "
        "be alone"
    )
    assert cpus.describe_overload(4, 1.0) is not None
