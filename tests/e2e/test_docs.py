"""The site of the documentation: built without a warning, complete, and independent of the network."""

import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import window
from playwright.sync_api import Browser, expect
from workspace import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocstrings") is None,
    reason="needs the extra docs: pip install '.[docs]'",
)

BUILD = """
import sys
for name in ("torch", "folio"):
    sys.modules[name] = None  # importing it raises ImportError
from mkdocs.__main__ import cli
cli()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Building fails on a warning, and if it imports torch or folio."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-c", BUILD, "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {site / page for page in pages} <= set(site.rglob("*.html"))
    assert "<h1" in (site / "index.html").read_text()
    assert "0.1.0" in (site / "changelog.html").read_text()


def test_a_page_loads_nothing_from_the_network(site: Path) -> None:
    loading = re.compile(r"<(?:link|script|img|iframe|source|video)\b[^>]*\b(?:href|src)=\"?(?:https?:)?//[^>]*>")
    loaded = {page.name: found for page in site.rglob("*.html") if (found := loading.findall(page.read_text()))}
    assert not loaded


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("models", ["GPT", "Encoder", "EncoderDecoder", "TransformerConfig", "build_model", "context_length"]),
        ("data", ["Batch", "TrainingWindows", "TokenFile"]),
        ("tokenizers", ["Tokenizer", "CharTokenizer", "WordTokenizer"]),
        ("generation", ["SamplingParams", "generate_text"]),
        ("runs", ["find_resumable_run", "find_checkpoint"]),
        ("python", ["load", "LoadedRun", "TextLoss", "RunRecord", "list_runs", "train", "FolioError"]),
    ],
)
def test_the_api_reference_documents_the_public_names(page: str, names: list[str], site: Path) -> None:
    headings = set(re.findall(r'<h\d id="folio\.([\w.]+)"', (site / "api" / f"{page}.html").read_text()))
    assert set(names) <= {heading.split(".")[-1] for heading in headings}


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_search_works_without_the_network(address: str, browser: Browser) -> None:
    with window(browser, f"{address}index.html") as opened:
        search = opened.page.get_by_role("textbox", name="Search")
        search.focus()
        # What is typed before the index has been read is lost.
        expect(opened.page.locator(".md-search-result__meta")).to_contain_text("Type to start", timeout=60_000)
        search.press_sequentially("rotary")
        expect(opened.page.locator(".md-search-result__item").first).to_contain_text(
            "rotary", ignore_case=True, timeout=60_000
        )
        assert not opened.external_requests
        assert not opened.errors
