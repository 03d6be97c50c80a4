"""Errors of a request, in the shape that OpenAI's clients read."""

from typing import Any

from folio.runtime.terminal import printable

MAX_MESSAGE = 1000
"""Characters of a message, which may quote what was sent."""


class ApiError(Exception):
    """A request that is answered with a status of 4xx or 5xx and one line that says what to change."""

    def __init__(
        self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"Retry-After": "1"} if retry else {}
        self.body: dict[str, Any] = {
            "error": {
                "message": printable(message[:MAX_MESSAGE], keep=""),
                "type": "invalid_request_error" if status < 500 else "server_error",
                "param": param,
                "code": code,
            }
        }
