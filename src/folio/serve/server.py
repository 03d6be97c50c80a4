"""Run the application on a socket until Ctrl-C."""

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from folio.runtime.errors import FolioError
from folio.serve.scheduler import Scheduler

MAX_CONNECTIONS = 512
"""Connections at once, also idle ones; uvicorn answers more with 503."""

GRACE_S = 3
"""Time that requests have for their last answer once the server stops."""

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that mean all those of this machine, and one of them."""


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, on which nothing is accepted yet. Raises: FolioError."""
    opened = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except (OSError, UnicodeError) as error:
        if opened is not None:
            opened.close()
        reason = getattr(error, "strerror", None) or error
        raise FolioError(
            f"--host={host} --port={port}: cannot listen there ({reason}); choose another port, or 0 for any that is "
            "free"
        ) from None
    return opened


def url_of(bound: socket.socket) -> str:
    """Return the address to type, on this machine."""
    host, port = bound.getsockname()[:2]
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, which ends the steps of all requests when it is told to stop, so that it ends at once."""

    def __init__(self, app: ASGIApp, scheduler: Scheduler, announce: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._scheduler = scheduler
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._scheduler.stop()
        super().handle_exit(sig, frame)
