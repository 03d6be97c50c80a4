"""Serve models in a test: to Starlette's client, or on a port to real ones."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.testclient import TestClient

from folio.serve.app import build_app
from folio.serve.limits import Limits
from folio.serve.models import ServedModel, ServedModels
from folio.serve.scheduler import Scheduler
from folio.serve.server import Server, open_socket, url_of


@contextmanager
def client_of(
    *models: ServedModel, limits: Limits | None = None, hosts: Sequence[str] = (), origins: Sequence[str] = ()
) -> Iterator[TestClient]:
    """Yield a client of an application with these models."""
    limits = limits or Limits()
    scheduler = Scheduler(limits.max_requests)
    app = build_app(ServedModels(models), scheduler, limits, hosts=hosts, origins=origins)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client
    scheduler.stop()


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    url: str
    server: Server
    scheduler: Scheduler
    thread: threading.Thread

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)


@contextmanager
def running(*models: ServedModel, limits: Limits | None = None) -> Iterator[Running]:
    """Yield a server that listens on a free port, and stop it."""
    limits = limits or Limits()
    scheduler, has_started = Scheduler(limits.max_requests), threading.Event()
    bound = open_socket("127.0.0.1", 0)
    url = url_of(bound)
    server = Server(build_app(ServedModels(models), scheduler, limits), scheduler, has_started.set)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        assert has_started.wait(timeout=30)
        yield Running(url, server, scheduler, thread)
    finally:
        scheduler.stop()
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
