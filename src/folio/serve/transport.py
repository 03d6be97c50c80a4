"""Bodies in and answers out: no slower, larger or longer than the limits, and only while the client is there."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from folio.serve.errors import ApiError
from folio.serve.limits import BODY_TIMEOUT_S, MAX_BODY_BYTES, PART_BYTES, SEND_TIMEOUT_S

T = TypeVar("T")


class WholeAnswer(JSONResponse):
    """An answer of any size, sent no faster than it is read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(TimeoutError):
            await send_in_parts(send, self.body)
            await send({"type": "http.response.body"})


class Stream(Response):
    """An answer that is sent as it is made. Nothing more is computed once the client has left, or does not read."""

    def __init__(self, parts: AsyncGenerator[str], kind: str) -> None:
        super().__init__(headers={"Content-Type": kind, "Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect, TimeoutError):
            await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._parts) as parts:
            async for part in parts:
                await send_in_parts(send, part.encode())
        await send({"type": "http.response.body"})


async def send_in_parts(send: Send, content: bytes | memoryview) -> None:
    """Send a part of a response, so that little of it waits in memory for a client that does not read.

    Raises: TimeoutError if the client reads nothing for SEND_TIMEOUT_S.
    """
    for start in range(0, len(content), PART_BYTES):
        body = bytes(content[start : start + PART_BYTES])
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; cancel it if the client leaves before. Raises: ClientDisconnect."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_disconnection(receive))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(request: Request) -> bytes:
    """Return the body of a request. Raises: ApiError if it is no JSON, too large or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which a web page cannot send to another origin without asking
        raise ApiError(f"Content-Type: {kind} must be application/json", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(f"the body has more than {MAX_BODY_BYTES:,} bytes; send less at once", status=413)
    except TimeoutError:
        raise ApiError(f"the body did not arrive within {BODY_TIMEOUT_S} seconds", status=408) from None
    return bytes(body)
