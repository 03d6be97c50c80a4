"""The server answers every request: a bad one in one line, too many with 429, and none that a web page sends."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Running, client_of, running
from starlette.testclient import TestClient
from tiny_models import served

from folio.data.tokenizers.byte import ByteTokenizer
from folio.data.tokenizers.char import CharTokenizer
from folio.runtime.errors import FolioError
from folio.serve.errors import ApiError
from folio.serve.guard import host_name
from folio.serve.limits import MAX_BODY_BYTES, Limits
from folio.serve.models import ServedModels, check_family, choose_name
from folio.serve.scheduler import Scheduler
from folio.serve.server import open_socket

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LIMITS = Limits(max_requests=2, max_tokens=100_000)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(served(ByteTokenizer()), served(CharTokenizer("abc"), "other")) as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(served(ByteTokenizer()), limits=LIMITS) as started:
        yield started


def error_of(client: TestClient, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    """Return the error in the answer to a body: bytes, or what is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return dict(error)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": float("nan")}, "temperature=nan must be a finite number"),
        ({"temperature": -1}, "temperature=-1 must be greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature='hot' must be a valid number"),
        ({"temperature": True}, "temperature=True must be a valid number"),
        ({"top_p": 0}, "top_p=0 must be greater than 0"),
        ({"top_p": 1.5}, "top_p=1.5 must be less than or equal to 1"),
        ({"top_k": 0}, "top_k=0 must be"),
        ({"max_tokens": -1}, "max_tokens=-1 must be greater than or equal to 0"),
        ({"max_tokens": 10**9}, "max_tokens=1000000000 must be at most 4096"),
        ({"max_tokens": 1.5}, "max_tokens=1.5 must be a valid integer"),
        ({"n": 10**9}, "n=1000000000 must be less than or equal to 128"),
        ({"n": 0}, "n=0 must be greater"),
        ({"n": 100, "prompt": ["a", "b"]}, "2 prompts with n=100 are more than 128 texts"),
        ({"logprobs": 21}, "logprobs=21 must be less than or equal to 20"),
        ({"seed": 2**63}, "seed=9223372036854775808 must be less than"),
        ({"stop": 5}, "stop=5 must be a valid string or a valid list"),
        ({"stop": ""}, "stop='' must be"),
        ({"stop": ["a", ""]}, "stop.1='' must be"),
        ({"stop": ["a"] * 17}, "stop=["),
        ({"stop": "a" * 257}, "stop='aaa"),
        ({"stream": "yes"}, "stream='yes' must be a valid boolean"),
        ({"stream_options": {"usage": True}}, "is not a field of this request"),
        ({"temprature": 1}, "temprature is not a field of this request; did you mean temperature?"),
        ({"presence_penalty": 0.5}, "presence_penalty=0.5 is not supported"),
        ({"best_of": 4}, "best_of=4 is not supported"),
        ({"prompt": 5}, "prompt=5 must be a text"),
        ({"prompt": []}, "prompt=[] must be a text"),
        ({"prompt": ["a", 1]}, "prompt=['a', 1] must be a text"),
        ({"prompt": [[1], []]}, "must be a text"),
        ({"prompt": [1.5]}, "must be a text"),
        ({"prompt": [True]}, "must be a text"),
        ({"prompt": {"a": 1}}, "must be a text"),
        ({"prompt": ""}, "prompt='' gives no tokens"),
        ({"prompt": [1, 256]}, "token id 256 is outside the vocabulary of tiny, 0 to 255"),
        ({"prompt": [-1]}, "token id -1 is outside"),
        ({"prompt": [10**300]}, "token id 1000"),
        ({"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": "a" * 65_537}, "the prompts have more than 65,536 tokens"),
        ({"model": 5}, "model=5 must be a valid string"),
        ({"model": "other", "prompt": "x"}, "the char tokenizer has no id for 'x'"),
    ],
)
def test_a_wrong_field_is_answered_with_its_name_value_and_rule(
    client: TestClient, fields: dict[str, Any], message: str
) -> None:
    error = error_of(client, COMPLETIONS, {"model": "tiny", "prompt": "a", **fields})
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hello", "messages"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "robot", "content": "a"}], "messages.0.role"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}], "messages.0.content.0.type"),
        ([{"role": "user", "content": "a", "tool_calls": []}], "messages.0.tool_calls"),
    ],
)
def test_a_wrong_message_is_named(client: TestClient, messages: Any, param: str) -> None:
    assert error_of(client, CHAT, {"model": "tiny", "messages": messages})["param"] == param


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"null", "the body is None; send a JSON object"),
        (b"[1]", "the body is [1]"),
        (b"\xff\xfe", "the body is not UTF-8 text (byte 0)"),
        (b'{"prompt": "\xc3"}', "the body is not UTF-8 text (byte 12)"),
        (b"[" * 100_000, "nested"),
        (b'{"prompt": ' + 20 * b"[" + 20 * b"]" + b"}", "nested more than 8 levels deep"),
        (b'{"n": ' + 5000 * b"9" + b"}", "a number of 5,000 digits"),
    ],
)
def test_a_body_that_is_no_plain_json_is_refused(client: TestClient, body: bytes, message: str) -> None:
    assert message in error_of(client, COMPLETIONS, body)["message"]


def test_a_large_body_is_refused_with_413_and_another_type_with_415(client: TestClient) -> None:
    assert "1,048,576 bytes" in error_of(client, COMPLETIONS, MAX_BODY_BYTES * b" " + b"{}", 413)["message"]
    response = client.post(COMPLETIONS, content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert response.json()["error"]["message"] == "Content-Type: text/plain must be application/json"


def test_only_the_runs_of_the_command_line_can_be_addressed(client: TestClient) -> None:
    for name in ("../../etc/passwd", "latest", "outputs/run", "TINY", "", "\ud800", "x" * 10_000):
        error = error_of(client, COMPLETIONS, {"model": name, "prompt": "a"}, 404)
        assert error["code"] == "model_not_found"
        assert error["message"].endswith("is not served; the models are tiny, other")
    assert "model is missing" in error_of(client, COMPLETIONS, {"prompt": "a"})["message"]
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert client.get("/v1/models/..%2F..%2Fetc%2Fpasswd").status_code == 404


def test_unknown_paths_and_methods_have_errors_of_the_same_shape(client: TestClient) -> None:
    for response, status in ((client.get("/v1/nothing"), 404), (client.get(COMPLETIONS), 405)):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "prompt",
    "messages",
    "n",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "logprobs",
    "echo",
    "stream",
    "tokens",
)


@given(
    path=st.sampled_from([COMPLETIONS, CHAT, "/tokenize", "/detokenize"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON),
)
def test_any_json_is_answered(client: TestClient, path: str, fields: dict[str, Any]) -> None:
    content = json.dumps({"model": "tiny", "max_tokens": 1, **fields}).encode()
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400)
    assert response.status_code == 200 or response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "192.168.1.7:8000"}, 200),
        ({"Host": "folio.lan"}, 200),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "\x1b[31m" + 5000 * "x"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "https://class.example"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9000"}, 403),
    ],
)
def test_a_web_page_cannot_use_the_server_unless_its_origin_is_allowed(headers: dict[str, str], status: int) -> None:
    with client_of(served(ByteTokenizer()), hosts=["folio.lan"], origins=["https://class.example"]) as client:
        response = client.get("/health", headers=headers)
        assert response.status_code == status, response.text
        allowed = "https://class.example" if headers.get("Origin") == "https://class.example" else None
        assert response.headers.get("access-control-allow-origin") == allowed
        if status == 403:
            message = response.json()["error"]["message"]
            assert "--allow-" in message
            assert len(message) < 600
            assert "\x1b" not in message


def test_an_allowed_page_passes_the_preflight_of_its_browser() -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with client_of(served(ByteTokenizer()), origins=["https://class.example"]) as client:
        allowed = client.options(COMPLETIONS, headers={"Origin": "https://class.example", **asking})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://class.example"
        assert client.options(COMPLETIONS, headers={"Origin": "https://evil.example", **asking}).status_code == 403


@pytest.mark.parametrize(
    ("host", "name"),
    [("a:1", "a"), ("A", "a"), ("a.", "a"), ("[::1]", "::1"), ("::1", "::1"), ("a:b", "a:b"), ("", ""), ("[", "")],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


def test_runs_of_the_same_name_are_told_apart(tmp_path: Any) -> None:
    taken: list[str] = []
    for file in ("best", "last", "step=250", "step=250"):
        taken.append(choose_name("run", tmp_path / f"{file}.ckpt", taken))
    assert taken == ["run", "run-2", "run@step=250", "run@step=250-2"]


def test_a_model_of_another_family_is_refused(tmp_path: Any) -> None:
    for family in ("encoder", "encoder_decoder"):
        with pytest.raises(FolioError, match="OpenAI's API is for decoders"):
            check_family(tmp_path, family)


def test_a_port_in_use_is_one_line() -> None:
    with open_socket("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(FolioError, match=r"--port=.* cannot listen there .*; choose another port"):
            open_socket("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(FolioError, match=r"--host=nowhere\.invalid"):
        open_socket("nowhere.invalid", 0)


def test_requests_take_turns() -> None:
    order: list[str] = []
    is_full = threading.Event()

    def steps(name: str, n_steps: int) -> Iterator[None]:
        is_full.wait()
        for _ in range(n_steps):
            order.append(name)
            yield None

    async def run_all() -> None:
        scheduler = Scheduler(max_jobs=3)

        async def run(name: str, n_steps: int) -> None:
            assert [result async for result in scheduler.run(steps(name, n_steps))] == []

        async with anyio.create_task_group() as group:
            for name, n_steps in (("a", 6), ("b", 2), ("c", 3)):
                group.start_soon(run, name, n_steps)
            while scheduler.n_jobs < 3:
                await anyio.sleep(0)
            with pytest.raises(ApiError, match="answering 3 requests"):
                [result async for result in scheduler.run(steps("d", 1))]
            is_full.set()
        assert scheduler.n_jobs == 0
        scheduler.stop()

    anyio.run(run_all)
    assert "".join(order) == "abcabcacaaa"


def test_an_error_in_one_request_ends_only_that_one_and_leaving_one_stops_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise RuntimeError("of this request")

    def endless() -> Iterator[int]:
        while True:
            yield 1

    async def run_all() -> None:
        scheduler = Scheduler(max_jobs=3)
        async with aclosing(scheduler.run(endless())) as others:
            assert await anext(others) == 1
            with pytest.raises(RuntimeError, match="of this request"):
                [result async for result in scheduler.run(failing())]
            assert await anext(others) == 1
            assert scheduler.n_jobs == 1
        while scheduler.n_jobs:
            await anyio.sleep(0.001)
        scheduler.stop()

    anyio.run(run_all)


def test_the_real_client_reads_every_answer(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "folio"
        fields: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "seed": 1}
        whole = client.completions.create(prompt="ab", logprobs=2, n=2, **fields)
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 12
        assert whole.choices[1].logprobs is not None
        assert whole.choices[1].logprobs.token_logprobs is not None
        assert len(whole.choices[1].logprobs.token_logprobs) == 6
        stream = client.completions.create(prompt="ab", stream=True, **fields)
        assert "".join(part.choices[0].text for part in stream) == whole.choices[0].text

        messages: Any = [{"role": "user", "content": "ab"}]
        answer = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=1, **fields)
        parts = client.chat.completions.create(
            messages=messages, stream=True, stream_options={"include_usage": True}, **fields
        )
        read = list(parts)
        text = "".join(part.choices[0].delta.content or "" for part in read if part.choices)
        assert text == answer.choices[0].message.content
        assert read[-1].usage == answer.usage
        assert answer.choices[0].logprobs is not None

        with pytest.raises(openai.NotFoundError, match="the models are tiny"):
            client.completions.create(model="gpt-4", prompt="a")
        with pytest.raises(openai.BadRequestError, match="temperature=-1"):
            client.completions.create(model="tiny", prompt="a", temperature=-1)


def test_a_client_that_leaves_stops_its_text_and_one_too_many_is_answered_with_429(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        long: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": LIMITS.max_tokens}
        streams = [client.completions.create(**long, stream=True) for _ in range(LIMITS.max_requests)]
        assert all(next(iter(stream)).choices for stream in streams)
        with pytest.raises(openai.RateLimitError, match="answering 2 requests") as refused:
            client.completions.create(model="tiny", prompt="a", stream=True)
        assert refused.value.response.headers["retry-after"] == "1"
        for stream in streams:
            stream.close()
        wait_until_idle(server)
    body = json.dumps(long).encode()
    with server.connect() as connection:  # a whole answer, not a stream
        connection.sendall(request_of(body) + body)
        wait_until_busy(server)
    wait_until_idle(server)


def test_a_server_that_stops_answers_what_is_in_flight() -> None:
    with running(served(ByteTokenizer()), limits=LIMITS) as server:
        body = json.dumps({"prompt": "a", "max_tokens": LIMITS.max_tokens}).encode()
        streaming = json.dumps({"prompt": "a", "max_tokens": LIMITS.max_tokens, "stream": True}).encode()
        with server.connect() as whole, server.connect() as stream, server.connect() as idle:
            whole.sendall(request_of(body) + body)
            stream.sendall(request_of(streaming) + streaming)
            idle.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
            wait_until(server, lambda: server.scheduler.n_jobs == 2)
            server.server.handle_exit(2, None)
            assert read_all(whole).startswith(b"HTTP/1.1 503 ")
            assert read_all(stream).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert read_all(idle) == b""
            server.thread.join(timeout=30)
            assert not server.thread.is_alive()


def test_a_slow_body_is_refused_and_a_client_that_reads_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folio.serve.transport.BODY_TIMEOUT_S", 0.1)
    monkeypatch.setattr("folio.serve.transport.SEND_TIMEOUT_S", 0.1)
    many = {"prompt": 6000 * "a", "echo": True, "logprobs": 20, "max_tokens": LIMITS.max_tokens}
    with running(served(ByteTokenizer()), limits=LIMITS) as server:
        with server.connect() as slow:
            slow.sendall(request_of(b"12345") + b"1")
            assert read_all(slow).startswith(b"HTTP/1.1 408 ")
        for body in (json.dumps({**many, "stream": True}).encode(), json.dumps({**many, "max_tokens": 0}).encode()):
            with socket.socket() as unread:
                unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                unread.connect(server.address)
                unread.sendall(request_of(body) + body)
                wait_until_busy(server)
                wait_until_idle(server)
                wait_until(server, lambda: not server.server.server_state.tasks)


def request_of(body: bytes) -> bytes:
    return (
        f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()


def read_all(connection: Any) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def wait_until_idle(server: Running) -> None:
    wait_until(server, lambda: server.scheduler.n_jobs == 0)


def wait_until_busy(server: Running) -> None:
    wait_until(server, lambda: server.scheduler.n_jobs > 0)


def wait_until(server: Running, condition: Callable[[], bool]) -> None:
    while not condition():
        assert server.thread.is_alive()
        time.sleep(0.001)


def test_models_are_found_by_name_alone() -> None:
    model = served(ByteTokenizer())
    assert ServedModels([model]).find(None) is model
