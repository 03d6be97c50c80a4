"""The views of a page that `scripts/export.py` wrote from real runs, used with a mouse or with keys alone."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from browser import Window, window
from playwright.sync_api import Browser, Page, expect
from workspace import FAMILIES, TINY, TINY_TEXT, Workspace

MARKUP = "<img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;"
"""Text that would run in a page that took it for HTML."""

EXPORT = ("scripts/export.py", "latest", "page.html", "--format", "page", "--force")
UNNAMED = """() => Array.from(
    document.querySelectorAll("button, input, select, textarea, canvas:not([aria-hidden]), svg[role]"),
).filter((node) => !(node.labels?.length || node.getAttribute("aria-label") || node.textContent.trim()))
 .map((node) => node.outerHTML)"""
"""Finds what a screen reader could not name."""

VIEWS = ("write", "read", "inside", "growth")


@pytest.fixture(scope="module")
def decoder(make_workspace: Callable[[], Workspace]) -> Workspace:
    """A workspace with a run whose text and prompt hold markup, and its page of three checkpoints in int8."""
    workspace = make_workspace()
    (workspace.folder / "markup.txt").write_text(TINY_TEXT + MARKUP)
    words = (*TINY[:2], "data=text_file", "data.path=markup.txt", "trainer=cpu", "model.context_length=32")
    prompt = f"callbacks.samples.prompt='{MARKUP}'"
    run = workspace.train(*words, prompt, "callbacks.checkpoint.keep_every_steps=10")
    said = workspace.must(*EXPORT, "--checkpoints", "step=10,last", "--weights", "int8", "--data-dir", "data")
    losses = re.findall(r"loss in int8 +(\S+) nats, and (\S+) in fp32", said)
    assert len(losses) == 2
    assert float(losses[1][1]) == pytest.approx(run.metrics["val/loss_nats"], abs=1e-6)
    assert float(losses[1][0]) == pytest.approx(run.metrics["val/loss_nats"], abs=0.1)
    return workspace


@pytest.fixture(scope="module")
def encoder(make_workspace: Callable[[], Workspace]) -> Workspace:
    workspace = make_workspace()
    workspace.train(*TINY, *FAMILIES["masked_lm"])
    workspace.must(*EXPORT)
    return workspace


@contextmanager
def page_of(workspace: Workspace, browser: Browser, fragment: str = "", **options: Any) -> Iterator[Window]:
    """Open the page of a workspace; at the end it must have had no error and made no request."""
    url = (workspace.folder / "page.html").as_uri()
    with window(browser, url + fragment, **options) as opened:
        requests: list[str] = []
        opened.page.on("request", lambda request: requests.append(request.url))
        opened.page.on("dialog", lambda dialog: opened.errors.append(f"a dialog: {dialog.message}"))
        opened.page.reload()
        yield opened
        assert opened.errors == []
        assert opened.external_requests == []
        assert {address.split(":")[0] for address in requests} <= {"file", "blob", "data"}
        assert {address.partition("#")[0] for address in requests if address.startswith("file:")} == {url}


def state_of(page: Page) -> dict[str, str]:
    """Return what the page's address says."""
    return {key: values[0] for key, values in parse_qs(page.url.partition("#")[2]).items()}


def written(page: Page) -> list[str]:
    """Return the texts of the tokens, once all are written."""
    expect(page.locator("#status")).to_have_text(re.compile("tokens? written"))
    return page.locator("#output .token:not([disabled])").all_text_contents()


def test_write_shows_alternatives_and_continues_from_one(decoder: Workspace, browser: Browser) -> None:
    with page_of(decoder, browser, "#length=25&seed=3") as opened:
        page = opened.page
        tokens = written(page)
        assert len(tokens) == 25
        assert page.locator("#output .token[disabled]").count() == len(MARKUP)
        count = "const call = source.call; window.calls = 0; source.call = (...a) => (calls++, call.apply(source, a));"
        page.evaluate(f"() => {{ {count} }}")
        page.locator("#output .token").nth(len(MARKUP) + 4).click()
        assert state_of(page)["token"] == "5"
        panel = page.locator("#alternatives")
        before = panel.locator(".value").all_text_contents()
        slider = page.get_by_label("Temperature")
        slider.fill("0.1")
        assert panel.locator(".value").all_text_contents() != before
        assert state_of(page)["temperature"] == "0.1"
        page.get_by_label("Top-k").fill("1")
        assert panel.locator(".value").first.text_content() == "100 %"
        expect(panel).to_contain_text("1 token can be drawn")
        page.get_by_label("Top-k").fill("")
        assert page.evaluate("calls") == 0, "sliders need no forward pass"
        other = panel.locator("li:not(.chosen) button").nth(3)
        name = other.locator(".name").text_content()
        other.click()
        continued = written(page)
        assert continued[:4] == tokens[:4]
        assert continued[4] == {"␣": " "}.get(name or "", name)
        assert len(continued) == 25
        # The same address gives the same text, in a new window too.
        page.reload()
        assert written(page) == continued
        page.get_by_role("button", name="Write").click()
        expect(page.locator("#status")).to_have_text("25 tokens written.")
        assert "given" not in state_of(page)


def test_read_shows_losses_and_the_most_surprising_tokens(decoder: Workspace, browser: Browser) -> None:
    with page_of(decoder, browser, "#view=read&text=ROMEO") as opened:
        page = opened.page
        expect(page.locator("#status")).to_have_text("5 tokens read.")
        assert page.locator("#reading dt").all_text_contents()[-1] == "bits per byte"
        assert page.locator("#reading tbody").first.locator("tr").count() == 5
        losses = [
            float(text) for text in page.locator("#reading tbody").nth(1).locator("td:nth-child(4)").all_text_contents()
        ]
        assert losses == sorted(losses, reverse=True)
        assert len(losses) == 4
        page.get_by_label("Text", exact=True).fill("ROMEO: ~")
        page.get_by_role("button", name="Read", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("does not know the character “~”")
        page.get_by_label("Text", exact=True).fill(MARKUP)
        page.get_by_role("button", name="Read", exact=True).click()
        expect(page.locator("#status")).to_have_text(f"{len(MARKUP)} tokens read.")
        assert "".join(page.locator("#reading .token").all_text_contents()) == MARKUP


def test_inside_shows_a_layer_a_head_and_a_token(decoder: Workspace, browser: Browser) -> None:
    with page_of(decoder, browser, "#view=inside&text=ROMEO%3A&head=2&query=4") as opened:
        page = opened.page
        expect(page.locator("#status")).to_have_text("6 tokens read, in 2 layers.")
        assert page.get_by_label("Head", exact=True).input_value() == "2"
        expect(page.locator("figcaption", has_text="attends to")).to_have_text("What E (token 4) attends to")
        weights = page.locator("section").nth(0).locator(".bars .value").all_text_contents()
        assert len(weights) == 4, "a decoder sees no later token"
        page.get_by_label("Layer", exact=True).select_option("2")
        page.get_by_label("Token", exact=True).select_option("6")
        assert state_of(page)["layer"] == "2"
        expect(page.locator("section").nth(0).locator(".bars li")).to_have_count(6)
        headings = page.locator("section h2").all_text_contents()
        assert headings == [
            "Attention",
            "Softmax without the division by √d",
            "Logit lens",
            "Residual stream",
            "Positional encoding",
        ]
        assert page.locator(".lens tbody tr").count() == 3
        assert page.locator("svg.matrix").count() == page.locator("svg.lines").count() == 1
        side = page.locator("svg.matrix").evaluate("(node) => node.clientHeight")
        page.locator("svg.matrix").click(position={"x": side - 4, "y": side / 2})
        assert state_of(page)["query"] in "234"


def test_growth_has_a_slider_over_the_checkpoints(decoder: Workspace, browser: Browser) -> None:
    with page_of(decoder, browser, "#view=growth&length=12&step=1") as opened:
        page = opened.page
        expect(page.locator("#status")).to_have_text("All checkpoints have written.")
        first = page.locator("#growth article:visible")
        expect(first.locator("h3")).to_have_text("step 10")
        assert first.locator(".token").count() == len(MARKUP) + 12
        page.get_by_label("Checkpoint", exact=True).press("ArrowRight")
        expect(page.locator("#growth article:visible h3")).to_have_text("step 20")
        assert "step" not in state_of(page) or state_of(page)["step"] == "2"
        assert (
            page.locator("#rounding")
            .text_content()
            .startswith("The weights are rounded to int8: the validation loss is")
        )  # type: ignore[union-attr]


def test_markup_of_a_run_stays_text(decoder: Workspace, browser: Browser) -> None:
    for view in VIEWS:
        with page_of(decoder, browser, f"#view={view}&prompt={MARKUP.replace('&', '%26')}&length=5") as opened:
            expect(opened.page.locator("#status")).not_to_be_empty()
            assert opened.page.locator("img").count() == 0
            policy = opened.page.locator("meta[http-equiv]").get_attribute("content")
            assert policy is not None
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy


def test_an_encoder_fills_blanks_and_reads(encoder: Workspace, browser: Browser) -> None:
    with page_of(encoder, browser, "#prompt=RO[MASK]E[MASK]") as opened:
        page = opened.page
        assert len(written(page)) == 2
        assert "[MASK]" not in (page.locator("#output").text_content() or "")
        page.locator("#alternatives button").nth(2).click()
        assert len(written(page)) == 2
        page.get_by_label("Prompt", exact=True).fill("ROMEO")
        page.get_by_role("button", name="Write").click()
        expect(page.get_by_role("alert")).to_contain_text("it fills blanks. Write [MASK]")
        page.goto(page.url.partition("#")[0] + "#view=read&text=ROMEO")
        expect(page.locator("#status")).to_have_text("5 tokens read.")
        expect(page.locator("#reading")).to_contain_text("not comparable with a decoder's")
        page.goto(page.url.partition("#")[0] + "#view=inside&text=ROMEO&query=1")
        expect(page.locator("#status")).to_have_text("5 tokens read, in 2 layers.")
        expect(page.locator("section").nth(0).locator(".bars li")).to_have_count(5)
        page.goto(page.url.partition("#")[0] + "#view=growth")
        expect(page.locator("#growth")).to_contain_text("--checkpoints step=250,step=1000,last")


def test_everything_is_reached_with_keys_alone(decoder: Workspace, browser: Browser) -> None:
    with page_of(decoder, browser, "#length=6") as opened:
        page = opened.page
        written(page)

        def tab_to(selector: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                    return
            raise AssertionError(f"the Tab key does not reach {selector}")

        page.locator("body").press("Tab")
        tab_to("#output .token")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert state_of(page)["token"] == "2"
        assert page.evaluate("document.activeElement.matches('#output .token[aria-pressed=true]')")
        tab_to("#alternatives button")
        page.keyboard.press("Enter")
        assert "given" in state_of(page)
        written(page)
        expect(page.locator("#alternatives button:focus"), "the keyboard stays there").to_have_count(1)
        for view in ("read", "inside", "growth"):
            tab_to(f"nav a[href='#view={view}']")
            page.keyboard.press("Enter")
            assert state_of(page)["view"] == view
            expect(page.locator("h2").first).to_have_text(view.capitalize())
        page.go_back()
        assert state_of(page)["view"] == "inside"
        expect(page.locator("#status")).to_have_text(re.compile("tokens? read"))
        tab_to(".small-map[aria-pressed=false]")
        page.keyboard.press("Enter")
        assert state_of(page)["head"] == "2"
        assert page.evaluate("document.activeElement.matches('.small-map[aria-pressed=true]')")
        expect(page.locator("nav [aria-current]")).to_have_text("Inside")
        assert page.evaluate(UNNAMED) == []


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1280, True)])
def test_no_view_is_wider_than_the_window(
    width: int, dark: bool, decoder: Workspace, browser: Browser, tmp_path: Path
) -> None:
    for view in VIEWS:
        with page_of(decoder, browser, f"#view={view}&length=8", width=width, dark=dark) as opened:
            expect(opened.page.locator("#status")).not_to_be_empty()
            opened.page.screenshot(path=tmp_path / f"{view}-{width}.png", full_page=True)
            assert opened.overflow() == 0, view


def test_the_policy_blocks_every_request(encoder: Workspace, browser: Browser) -> None:
    with window(browser, (encoder.folder / "page.html").as_uri()) as opened:
        for script in ("fetch('https://example.com/a')", "import('https://example.com/b.js')"):
            assert opened.page.evaluate(f"() => {script}.then(() => 'loaded', () => 'blocked')") == "blocked"
        opened.page.evaluate("document.body.append(Object.assign(new Image(), { src: 'https://example.com/c.png' }))")
        expect(opened.page.locator("body > img")).to_have_count(1)
        assert opened.external_requests == []
