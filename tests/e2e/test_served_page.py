"""The page at the address of a server is the one that a file holds: the same views, and the same numbers."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Window, window
from playwright.sync_api import Browser, expect
from serving import Running, running
from workspace import Run

import folio
from folio.api.loaded_run import LoadedRun
from folio.export.page.page import PageModel, write_page
from folio.export.page.weights import pack_weights
from folio.serve.models import ServedModel

TEXT = "But soft, what light through yonder window breaks?"


@pytest.fixture(scope="module")
def run(finished_run: Run) -> LoadedRun:
    return folio.load(finished_run.folder, device="cpu")


@pytest.fixture(scope="module")
def server(run: LoadedRun) -> Iterator[Running]:
    model: Any = run.model
    models = [
        ServedModel(
            id=name,
            model=model,
            tokenizer=run.tokenizer,
            path=run.path,
            step=run.step,
            n_parameters=model.n_parameters,
            created=0,
            sample_prompt="ROMEO:",
            val={"loss_nats": 4.0},
        )
        for name in ("<b>first</b>", "second")
    ]
    with running(*models) as started:
        yield started


@pytest.fixture(scope="module")
def page_file(run: LoadedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    weights = pack_weights(run.model, "fp32")
    size = run.model.n_parameters
    write_page(path, [PageModel("a", run.step, run.model.config, run.tokenizer, "fp32", weights, size, "ROMEO:")])
    return path


SAID = {
    "read": re.compile(r"\d+ tokens read\."),
    "inside": re.compile(r"\d+ tokens read, in 2 layers\."),
    "growth": "All checkpoints have written.",
}
"""What each view tells a screen reader at its end."""

CALL = """async ([name, args]) => {
    const parts = [];
    const asList = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
    const plain = (value) => JSON.parse(JSON.stringify(value, asList));
    await source.opened;
    const result = await source.call(name, args, { onPart: (part) => parts.push(plain(part)) });
    return { result: plain(result ?? null), last: parts.at(-1) ?? null };
}"""


def call(opened: Window, name: str, **arguments: Any) -> Any:
    return opened.page.evaluate(CALL, [name, {"model": 0, **arguments}])


def is_close(ours: Any, theirs: Any) -> bool:
    """Return whether two values of JSON have equal texts, and numbers within 1e-4; progress may be told more often."""
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return False
        return all(key == "done" or is_close(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(is_close, ours, theirs))
    if isinstance(ours, float):
        return math.isclose(ours, theirs, abs_tol=1e-4)
    return bool(ours == theirs)


def test_every_call_has_the_numbers_of_a_page_in_a_file(browser: Browser, server: Running, page_file: Path) -> None:
    greedy = {"length": 5, "sampling": {"temperature": 0, "topK": None, "topP": None}, "seed": 1}
    with window(browser, server.url) as ours, window(browser, page_file.as_uri()) as theirs:
        for name, arguments in (
            ("vocabulary", {}),
            ("tokenize", {"text": TEXT}),
            ("read", {"text": TEXT}),
            ("inspect", {"text": TEXT, "nTokens": 6}),
            ("complete", {"prompt": "ROMEO:", "given": [], "from": 0, **greedy}),
            ("complete", {"prompt": "ROMEO:", "given": [3, 4, 5], "from": 2, **greedy}),
        ):
            answers = [call(opened, name, **arguments) for opened in (ours, theirs)]
            assert is_close(*answers), name
        assert not ours.errors


def test_the_views_show_what_the_server_computes(browser: Browser, server: Running, run: LoadedRun) -> None:
    with window(browser, f"{server.url}/#seed=3&length=20&temperature=0.8") as opened:
        page = opened.page
        expect(page.locator("h1")).to_have_text("<b>first</b>, second")
        expect(page.locator("#status")).to_have_text("20 tokens written.")
        written = run.generate("ROMEO:", max_new_tokens=20, temperature=0.8, seed=3)
        assert page.evaluate("views.write.text.pieces.join('')") == written
        for view, said in SAID.items():
            page.goto(f"{server.url}/#view={view}")
            page.reload()
            expect(page.locator("#status")).to_have_text(said)
        assert not opened.errors
        assert not opened.external_requests
