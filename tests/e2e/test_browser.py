"""The browser of the other tests sees what it has to, and lets nothing out."""

from pathlib import Path

import pytest
from browser import window
from playwright.sync_api import Browser

PAGE = """<!doctype html><title>A page</title><style>body { margin: 0 } div { width: 700px }</style><div>wide</div>
<img src="https://example.com/a.png" alt=""><script>console.error("not well"); throw new Error("broken")</script>"""


@pytest.mark.parametrize(("width", "overflow"), [(1280, 0), (400, 300)])
def test_what_is_wrong_with_a_page_is_seen(width: int, overflow: int, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE)
    with window(browser, (tmp_path / "page.html").as_uri(), width) as opened:
        assert opened.page.title() == "A page"
        assert opened.overflow() == overflow
        assert opened.strangers == ["https://example.com/a.png"]
        assert {"not well", "broken"} <= set(opened.errors)
