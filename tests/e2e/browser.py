"""What a person sees of a page: the system's Chromium without a window, driven by Playwright.

Playwright would download a browser of its own; here it takes the one on PATH, so that nothing but PyPI is needed.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = ("", "localhost", "127.0.0.1")
"""Hosts that a page may ask for something; a file has none."""

ARGUMENTS = (
    "--disable-dev-shm-usage",  # a container's /dev/shm is small, and a tab that finds it full crashes
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)


def executable() -> str | None:
    """The browser of this machine, if it has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True)
class Window:
    """An open page, and what went wrong in it since."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """Exceptions and console.error."""
    strangers: list[str] = field(default_factory=list)
    """Addresses outside this machine that the page asked for; they are never answered."""

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window: what a person would have to scroll sideways."""
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(width))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for some tests. Skips the test where the machine has none."""
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
    """Open a page, of a file or of a server on this machine, as a person would: in a window of its own."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    try:
        opened = Window(context.new_page())

        def answer(route: Route) -> None:
            address = route.request.url
            if (urlsplit(address).hostname or "") in HERE:
                route.continue_()
            else:
                opened.strangers.append(address)
                route.abort()

        def heard(message: ConsoleMessage) -> None:
            if message.type == "error":
                opened.errors.append(message.text)

        opened.page.route("**/*", answer)
        opened.page.on("console", heard)
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.goto(url)
        yield opened
    finally:
        context.close()
