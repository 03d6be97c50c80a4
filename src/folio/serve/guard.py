"""Refuse requests that a web page of another origin could make, whoever looks at that page on this machine.

A browser sends requests to a local server for any page: directly (with the page's `Origin`), or by DNS rebinding, in
which the page's own name comes to mean 127.0.0.1 (then `Host` is that name). Programs set neither.
"""

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from folio.runtime.untrusted import shown
from folio.serve.errors import ApiError


class Guard:
    """Lets pass what names this server as its host, and comes from no page, this server's own, or an allowed one."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(Headers(scope=scope))):
            error = ApiError(problem, status=403, code="forbidden")
            await JSONResponse(error.body, error.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own(host_name(host)):
            return f"Host: {shown(host)} is no name of this server; if it is one, add --allow-host {shown(host)}"
        if origin is None or origin in (f"http://{host}", f"https://{host}"):
            return None
        if origin in self._origins or "*" in self._origins:
            return None
        return f"web pages of {shown(origin)} may not use this server; to let them, add --allow-origin {shown(origin)}"

    def _is_own(self, name: str) -> bool:
        """Return whether a name is allowed; an address always is, because rebinding needs a name."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


def host_name(host: str) -> str:
    """Return the name or the address of a Host header, without its port.

    >>> host_name("LOCALHOST:8000"), host_name("[::1]:8000"), host_name("::1")
    ('localhost', '::1', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and ":" not in name else host).rstrip(".").lower()
