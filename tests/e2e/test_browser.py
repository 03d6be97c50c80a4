"""The browser of the other tests notices problems of a page and blocks external requests."""

from pathlib import Path

import pytest
from browser import window
from playwright.sync_api import Browser

PAGE = """<!doctype html><title>A page</title><style>body { margin: 0 } div { width: 700px }</style><div>wide</div>
<img src="https://example.com/a.png" alt=""><script>console.error("not well"); throw new Error("broken")</script>"""


@pytest.mark.parametrize(("width", "overflow"), [(1280, 0), (400, 300)])
def test_problems_of_a_page_are_noticed(width: int, overflow: int, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE)
    with window(browser, (tmp_path / "page.html").as_uri(), width) as opened:
        assert opened.page.title() == "A page"
        assert opened.overflow() == overflow
        assert opened.external_requests == ["https://example.com/a.png"]
        assert {"not well", "broken"} <= set(opened.errors)
