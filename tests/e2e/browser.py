"""A headless Chromium, driven by Playwright, that shows what a person would see of a page.

It is the Chromium on PATH: Playwright would download its own, but the tests need nothing beyond PyPI.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCAL_HOSTS = ("", "localhost", "127.0.0.1")
"""Hosts that a page may load from; a file has no host."""

ARGUMENTS = (
    "--disable-dev-shm-usage",  # a container's /dev/shm is small, and a tab crashes when it is full
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)


def executable() -> str | None:
    """Return the path of the browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True)
class Window:
    """An open page, and the problems that it had."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """Exceptions and messages of console.error."""
    external_requests: list[str] = field(default_factory=list)
    """Addresses outside this machine that the page tried to load. All are blocked."""

    def overflow(self) -> int:
        """Return how many pixels the page is wider than the window, so that a person would have to scroll sideways."""
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(width))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser for some tests. Skips the test if the machine has none."""
    path = executable()
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on PATH (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(browser: Browser, url: str, width: int = 1280, height: int = 900, *, dark: bool = False) -> Iterator[Window]:
    """Open a page of a local file or server in its own window."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    try:
        opened = Window(context.new_page())

        def block_external(route: Route) -> None:
            address = route.request.url
            if (urlsplit(address).hostname or "") in LOCAL_HOSTS:
                route.continue_()
            else:
                opened.external_requests.append(address)
                route.abort()

        def record_error(message: ConsoleMessage) -> None:
            if message.type == "error":
                opened.errors.append(message.text)

        opened.page.route("**/*", block_external)
        opened.page.on("console", record_error)
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.goto(url)
        yield opened
    finally:
        context.close()
