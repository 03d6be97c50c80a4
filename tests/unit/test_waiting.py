"""How threads share the machine: awake and everywhere alone, asleep and out of the way beside other programs."""

import os
import random
import threading

import pytest
import torch

from folio.distributed import waiting
from folio.distributed.waiting import CrowdWatcher, watch_for_crowds


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """Where threads were placed: thread -> processors. None is really moved."""
    placed: dict[int, set[int]] = {}
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cpus: placed.update({thread: set(cpus)}), raising=False)
    return placed


def test_threads_sleep_while_others_want_their_processors(placed: dict[int, set[int]]) -> None:
    """The means are idle threads, so that libgomp counts more threads than processors; they go when the crowd goes."""
    watcher, n_before = CrowdWatcher(n_threads=2, cpus=range(4)), threading.active_count()
    for others, sleeps in (
        (0.0, False),
        (2.2, False),
        (2.3, True),
        (4.0, True),
        (2.0, False),
        (3.0, True),
        (0.0, False),
    ):
        watcher.look(dict.fromkeys(range(4), others / 4), own=0.0)
        assert watcher.lets_threads_sleep is sleeps
        # Each brings one thread that libgomp counts: 2 threads and 3 more are more than 4 processors.
        assert threading.active_count() - n_before == (3 if sleeps else 0)


def test_threads_keep_to_the_processors_that_others_leave(placed: dict[int, set[int]]) -> None:
    watcher = CrowdWatcher(n_threads=4, cpus=range(4))
    watcher.look({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, own=4.0)
    assert not placed  # alone, they run where the system likes
    watcher.look({0: 1.0, 1: 0.2, 2: 1.0, 3: 0.1}, own=0.3)
    assert watcher.cpus_in_use == {1, 3}  # the calmest
    assert placed[threading.get_native_id()] == {1, 3}
    watcher.look({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, own=0.1)
    assert len(watcher.cpus_in_use) == 1  # never none
    watcher.look({0: 0.0, 1: 1.0, 2: 1.0, 3: 0.1}, own=2.0)
    assert watcher.cpus_in_use == set(range(4))
    watcher.may_move = False
    watcher.look({0: 1.0, 1: 0.2, 2: 1.0, 3: 0.1}, own=0.3)
    assert watcher.cpus_in_use == set(range(4))
    assert placed[threading.get_native_id()] == set(range(4))


def test_threads_stay_while_it_is_calm_and_move_when_they_meet_others(placed: dict[int, set[int]]) -> None:
    watcher = CrowdWatcher(n_threads=2, cpus=range(2))
    watcher.look({0: 1.0, 1: 0.9}, own=0.9)
    (here,) = watcher.cpus_in_use
    for _ in range(20):
        watcher.look({0: 1.0, 1: 1.0}, own=1.0)
        assert watcher.cpus_in_use == {here}
    for _ in range(20):  # each time with a probability of one half
        watcher.look({here: 1.0, 1 - here: 0.0}, own=0.2)
    (there,) = watcher.cpus_in_use
    assert there == 1 - here


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system places threads by itself")
def test_how_threads_share_the_machine_changes_no_result() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(256, 512), torch.randn(512, 256)
    state, allowed = random.getstate(), os.sched_getaffinity(0)
    watcher = CrowdWatcher(n_threads=2, cpus=allowed)
    alone = torch.softmax(a @ b, dim=1)
    watcher.look(dict.fromkeys(allowed, 1.0), own=0.0)
    assert len(os.sched_getaffinity(0)) == 1
    assert torch.equal(torch.softmax(a @ b, dim=1), alone)
    watcher.look(dict.fromkeys(allowed, 0.0), own=0.0)
    assert os.sched_getaffinity(0) == allowed
    assert random.getstate() == state


@pytest.mark.parametrize("chosen", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", None])
def test_one_watcher_serves_a_process_unless_the_user_has_chosen(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[CrowdWatcher] = []
    monkeypatch.setattr(waiting, "_watcher", None)
    monkeypatch.setattr(waiting, "worked_seconds", lambda: {0: 1.0})
    monkeypatch.setattr(CrowdWatcher, "start", lambda watcher: started.append(watcher))
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv(chosen, "1")
    watch_for_crowds(1, may_move=True)  # waits for nobody
    assert not started
    watch_for_crowds(2, may_move=True)
    watch_for_crowds(4, may_move=False)
    assert [watcher.n_threads for watcher in started] == ([] if chosen else [4])
