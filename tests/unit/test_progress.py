"""The preparation of a long text reports its progress."""

import pytest

from folio.data.corpora import progress as module
from folio.data.corpora.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only item is the time."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_lines_say_how_far_how_fast_and_how_long(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with progress("Encoding", 200_000_000, said.append) as count:
        for _ in range(4):
            clock[0] += 6.0
            count(30_000_000)
    assert said == [
        "Encoding: 60 of 200 MB, 5.0 MB/s, 28 s left",
        "Encoding: 120 of 200 MB, 5.0 MB/s, 16 s left",
    ]
    assert capsys.readouterr().out == ""


def test_a_text_that_is_soon_done_needs_no_line(clock: list[float]) -> None:
    with progress("Encoding", 1000, pytest.fail) as count:
        clock[0] += 9.0
        count(1000)


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with progress("Encoding", 2_000_000, pytest.fail) as count:
        count(1_000_000)
    shown = capsys.readouterr().out
    assert "Encoding" in shown
    assert "1.0/2.0 MB" in shown
