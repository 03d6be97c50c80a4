"""How threads wait: awake alone, asleep beside other programs."""

import threading

import pytest
import torch

from folio.distributed import waiting
from folio.distributed.waiting import CrowdWatcher, watch_for_crowds


def test_threads_sleep_while_others_want_their_processors() -> None:
    """The means are idle threads, so that libgomp counts more threads than processors; they go when the crowd goes."""
    watcher, n_before = CrowdWatcher(n_threads=2, n_cpus=4), threading.active_count()
    for others, sleeps in (
        (0.0, False),
        (2.2, False),
        (2.3, True),
        (4.0, True),
        (2.0, False),
        (3.0, True),
        (0.0, False),
    ):
        watcher.look(others)
        assert watcher.lets_threads_sleep is sleeps
        # Each brings one thread that libgomp counts: 2 threads and 3 more are more than 4 processors.
        assert threading.active_count() - n_before == (3 if sleeps else 0)


def test_the_way_of_waiting_changes_no_result() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(256, 512), torch.randn(512, 256)
    watcher = CrowdWatcher(n_threads=2, n_cpus=2)
    watcher.look(0.0)
    awake = torch.softmax(a @ b, dim=1)
    watcher.look(2.0)
    assert torch.equal(torch.softmax(a @ b, dim=1), awake)
    watcher.look(0.0)


@pytest.mark.parametrize("chosen", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", None])
def test_one_watcher_serves_a_process_unless_the_user_has_chosen(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[CrowdWatcher] = []
    monkeypatch.setattr(waiting, "_watcher", None)
    monkeypatch.setattr(waiting, "worked_seconds", lambda: 1.0)
    monkeypatch.setattr(CrowdWatcher, "start", lambda watcher: started.append(watcher))
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv(chosen, "1")
    watch_for_crowds(1)  # waits for nobody
    assert not started
    watch_for_crowds(2)
    watch_for_crowds(4)
    assert [watcher.n_threads for watcher in started] == ([] if chosen else [4])
