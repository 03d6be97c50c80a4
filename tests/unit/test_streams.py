"""What cannot be printed never raises, and a terminal is sent nothing that it would obey but colors."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress, TextColumn

from folio.runtime.console import SafeConsole
from folio.runtime.streams import SafeStream, sanitize


class Failing(io.StringIO):
    """A stream whose writes or flushes fail."""

    def __init__(self, error: Exception, *, on: str) -> None:
        super().__init__()
        self.error, self.on = error, on

    def write(self, text: str) -> int:
        if self.on == "write":
            raise self.error
        return super().write(text)

    def flush(self) -> None:
        if self.on == "flush":
            raise self.error


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF, errno.EDQUOT])
@pytest.mark.parametrize("on", ["write", "flush"])
def test_a_failure_is_told_once_and_raises_nothing(number: int, on: str) -> None:
    heard: list[str] = []
    stream = SafeStream(Failing(OSError(number, os.strerror(number)), on=on), "standard output")
    stream.listener = heard.append
    for _ in range(3):
        print("text", file=stream, flush=True)  # type: ignore[call-overload]
    assert heard == [f"standard output cannot be written ({os.strerror(number)})"]


def test_a_listener_that_fails_raises_nothing_either() -> None:
    stream = SafeStream(Failing(BrokenPipeError(), on="write"), "standard output")
    stream.listener = lambda _: (_ for _ in ()).throw(RuntimeError)
    stream.write("text")


def test_a_closed_stream_raises_nothing() -> None:
    closed = io.StringIO()
    closed.close()
    SafeStream(closed, "standard output").write("text")


def test_a_character_that_the_encoding_lacks_is_written_as_an_escape() -> None:
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding="latin-1"), "standard output")
    stream.write("größe 日")
    stream.flush()
    assert raw.getvalue() == "größe ".encode("latin-1") + b"\\u65e5"


def test_after_a_failure_the_descriptor_leads_nowhere_so_that_no_later_flush_fails(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    stream = SafeStream(os.fdopen(writer, "w"), "standard output")
    os.close(reader)
    stream.write("text")
    stream.flush()
    assert stream.failure is not None
    assert os.readlink(f"/proc/self/fd/{writer}") == os.devnull
    stream.stream.close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_sent_colors_and_no_other_escape_sequence() -> None:
    terminal = Terminal()
    stream = SafeStream(terminal, "standard output")
    stream.write("\x1b[1;31mred\x1b[0m \x1b[38;5;200mpink\x1b[m \x1b]0;title\x07 \x1b[2J \x1b[8mhidden \x1b[31;8mtoo\n")
    assert terminal.getvalue() == (
        "\x1b[1;31mred\x1b[0m \x1b[38;5;200mpink\x1b[m \\x1b]0;title\\x07 \\x1b[2J \\x1b[8mhidden \\x1b[31;8mtoo\n"
    )
    stream.write_trusted("\x1b[2K")
    assert terminal.getvalue().endswith("\x1b[2K")


def test_a_pipe_is_sent_no_more_because_its_reader_may_show_it_on_a_terminal() -> None:
    pipe = io.StringIO()
    stream = SafeStream(pipe, "standard output")
    stream.write("\x1b[2J\x1b[31mred\n")
    stream.write_trusted("\x1b[2J")
    assert pipe.getvalue() == "\\x1b[2J\x1b[31mred\n\x1b[2J"


def test_a_carriage_return_overwrites_no_line() -> None:
    assert sanitize("failed\rdone\r\n\r") == "failed\\rdone\r\n\\r"


def test_a_progress_bar_reaches_the_terminal_and_a_message_beside_it_is_printable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", SafeStream(terminal, "standard output"))
    monkeypatch.setenv("TERM", "xterm-256color")
    with Progress(TextColumn("{task.description}"), console=SafeConsole("stdout"), auto_refresh=False) as bar:
        bar.add_task("bar")
        bar.refresh()
        bar.console.print("[red]\x1b[2J")
        print("x\x1b[3J")
    assert "\r\x1b[2K" in terminal.getvalue()
    assert r"[red]\x1b[2J" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


@pytest.mark.parametrize("text", ["", "plain\n", "tab\t", "ü日本"])
def test_plain_text_passes(text: str) -> None:
    assert sanitize(text) == text


PROGRAM = """
import os, sys
from folio.runtime.startup import prepare_process
prepare_process()
with open(sys.argv[1], "w") as file:
    print("for the user")
    print("for the user", file=sys.stderr, flush=True)
    os.write(1, b"from a library")
    os.write(2, b"from a library")
    file.write("data")
assert sys.stdin is None or sys.stdin.read() == ""
"""


@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", ">&-", "2>&-", "<&- >/dev/full 2>/dev/full", ">/dev/full"])
def test_with_closed_or_full_streams_a_program_ends_well_and_its_files_hold_only_their_data(
    redirection: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    command: Any = ["bash", "-c", f'exec "$0" -c "$1" "$2" {redirection}', sys.executable, PROGRAM, str(file)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert file.read_text() == "data"
