"""scripts/report.py on real runs, and its page in a real browser."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Window, window
from matplotlib.image import imread
from playwright.sync_api import Browser
from workspace import TINY, Workspace

REPORT = "scripts/report.py"
KIND = "positional_encoding.name"
HOSTILE = '"><script>document.title = "owned"</script><img src="https://example.com/x" onerror="document.title=1">'
SMALLEST_TEXT = 12.0
"""Font size in a plot, in pixels."""


@pytest.fixture(scope="module")
def compared(make_workspace: Callable[[], Workspace]) -> Workspace:
    """Train two runs, and add a third that failed."""
    workspace = make_workspace()
    for kind in ("learned", "rotary"):
        workspace.train(*TINY, f"positional_encoding={kind}", "training.validate_every_steps=10")
    failed = workspace.folder / "outputs" / "failed"
    failed.mkdir()
    (failed / "metrics.json").write_text(json.dumps({"status": "failed", "error": "rope is unknown", "seed": 1}))
    return workspace


def test_real_runs_are_compared(compared: Workspace, tmp_path: Path) -> None:
    printed = compared.must(REPORT, "outputs", "--group-by", "positional_encoding", "--output", str(tmp_path))
    files = [Path(line) for line in printed.splitlines()[-6:]]
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}
    assert "No winner" in printed  # one seed each
    assert "rope is unknown" in printed
    rows = {row["status"]: row for row in csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text()))}
    assert rows["failed"]["error"] == "rope is unknown"
    finished = [json.loads((run / "metrics.json").read_text()) for run in compared.runs()]
    assert {float(finished[0]["val/loss_nats"]), float(finished[1]["val/loss_nats"])} == {
        float(row["val/loss_nats"])
        for row in csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text()))
        if row["status"] == "finished"
    }
    for image in (path for path in files if path.suffix == ".png"):
        assert imread(image).std() > 0


def test_a_run_records_its_peak_memory(compared: Workspace) -> None:
    for run in compared.runs():
        peak = json.loads((run / "metrics.json").read_text())["peak_memory_bytes"]
        assert 100 * 2**20 < peak < 8 * 2**30


def test_the_report_of_one_folder_is_written_into_it_and_can_be_repeated(compared: Workspace) -> None:
    (folder, *_) = compared.runs()
    for _ in range(2):
        compared.must(REPORT, str(folder))
    assert (folder / "report.html").is_file()


def test_a_run_is_recorded_and_others_are_judged_by_the_record(compared: Workspace, tmp_path: Path) -> None:
    learned, rotary = (str(folder) for folder in compared.runs())
    record = tmp_path / "mine.json"
    recorded = compared.run("scripts/record.py", learned, "--study", str(record), "--label", "variant=first")
    assert recorded.code == 0, recorded.stderr
    assert "python train.py model=debug tokenizer=char data=text_file" in recorded.stdout
    judged = compared.must(REPORT, rotary, "--against", str(record), "--output", str(tmp_path))
    assert "the nearest has positional_encoding.name learned there, rotary here" in judged
    study = json.loads(record.read_text())
    command = [*study["rows"][0]["command"][:-2], "positional_encoding=rotary", "training.validate_every_steps=10"]
    stated = {"val/loss_nats": {"n": 3, "mean": 1.0, "std": 0.01}}
    study["rows"].append({"transcribed": True, "command": command, "stated": stated})
    record.write_text(json.dumps(study))
    judged_outside = compared.run(REPORT, rotary, learned, "--against", str(record), "--output", str(tmp_path))
    assert judged_outside.code == 1, judged_outside.stderr
    assert judged_outside.stderr == ""
    assert re.search(
        r"^rotary: outside the spread: \d\.\d{4} is not in 0\.9503 to 1\.0497$", judged_outside.stdout, re.M
    )
    assert "learned: no verdict: the record has one seed" in judged_outside.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "FOLDER=nowhere is not a folder"),
        (["data"], "FOLDER=data: no run that can be read"),
        (["outputs", "data"], "--output is missing"),
        (["outputs", "--group-by", "sead"], "--group-by=sead is not a key of these runs' configs; did you mean seed?"),
        (["outputs", "--output", "tiny.txt"], "--output=tiny.txt: cannot write in tiny.txt"),
        (["outputs", "--against", "laddr"], "laddr: there is no such record; did you mean ladder?"),
    ],
)
def test_bad_input_is_one_line_of_error_and_writes_nothing(args: list[str], message: str, compared: Workspace) -> None:
    before = compared.files()
    assert message in compared.run(REPORT, *args).error_line()
    assert compared.files() == before


def test_a_damaged_run_is_left_out_with_a_warning(compared: Workspace, tmp_path: Path) -> None:
    damaged = compared.folder / "outputs" / "damaged"
    damaged.mkdir()
    (damaged / "metrics.json").write_text("{")
    finished = compared.run(REPORT, "outputs", "--output", str(tmp_path))
    (damaged / "metrics.json").unlink()
    damaged.rmdir()
    assert finished.code == 0
    assert finished.stderr == "warning: outputs/damaged/metrics.json is damaged; this run is left out\n"
    assert "2 finished" in finished.stdout


@pytest.fixture
def page_file(write_run: Callable[..., Path], tmp_path: Path, workspace: Workspace) -> Path:
    """Report a sweep of four encodings and three seeds; one run was interrupted, and one has hostile texts."""
    for place, kind in enumerate(("learned", "rotary", "alibi", "none")):
        for seed in (1, 2, 3):
            loss = 1.5 + 0.1 * place + 0.01 * seed
            curve = tuple(loss + 3 / step for step in range(1, 20))
            changes = {"seed": seed, KIND: kind, "optimizer.learning_rate": 10.0 ** -(2 + place)}
            status = "interrupted" if (kind, seed) == ("none", 3) else "finished"
            text = f"ROMEO:\nMy name is {kind}, and my seed is {seed}."
            write_run(f"sweep/positional_encoding={kind},seed={seed}", changes, loss=loss, curve=curve, status=status,
                      sample=text)  # fmt: skip
    write_run(
        'sweep/<img src=x onerror="document.title=1">',
        {"seed": 1, KIND: HOSTILE},
        status="failed",
        error=HOSTILE,
        sample=f"</pre>{HOSTILE}",
        curve=(3.0, 2.0),
    )
    workspace.must(REPORT, str(tmp_path / "sweep"))
    return tmp_path / "sweep" / "report.html"


@pytest.fixture(params=[1280, 400])
def opened(request: pytest.FixtureRequest, browser: Browser, page_file: Path) -> Iterator[Window]:
    """Open the page as wide as a laptop and as a phone. At the end, it must have no errors and no requests."""
    with window(browser, page_file.as_uri(), request.param) as opened:
        yield opened
        assert opened.errors == []
        assert opened.external_requests == []
        assert opened.page.title() == "sweep · Folio"  # no script but the page's own has run


def test_the_page_fits_the_window_and_can_be_sorted_and_colored(opened: Window) -> None:
    """One test checks the whole page, because opening a browser takes longer than that."""
    page = opened.page
    assert opened.overflow() == 0
    width = page.evaluate("innerWidth")
    in_view = ["#results th:has-text('bits per byte')"]  # the metric of the conclusion, without scrolling
    in_view += ["#runs th:has-text('lowest loss')"] if width > 600 else []
    for selector in in_view:
        box = page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width, selector
    assert "learned has the lowest mean bits per byte (n = 3)" in page.locator(".conclusion").inner_text()
    # Text from runs is not interpreted.
    error = page.locator("#unfinished .error")
    assert error.inner_text() == HOSTILE
    assert page.locator("#samples pre", has_text="</pre>").count() == 1
    assert page.locator("main img").count() == 0

    # A click sorts a table, numbers by value; a second click reverses the order.
    table = page.locator("#results table")
    loss = table.locator("th", has_text="validation loss")
    first = table.locator("tbody tr td:first-child")
    loss.locator("button").click()
    assert loss.get_attribute("aria-sort") == "ascending"
    ascending = first.all_inner_texts()
    assert ascending[:4] == ["learned", "rotary", "alibi", "none"]
    loss.locator("button").click()
    assert loss.get_attribute("aria-sort") == "descending"
    descending = first.all_inner_texts()
    assert descending[:4] == ["none", "alibi", "rotary", "learned"]
    assert descending[4] == ascending[4]  # unknown values stay last

    # Plots have axes with units, in readable text.
    chart = page.locator("#curve-chart svg")
    texts = chart.locator("text").all_text_contents()
    assert "validation loss (nats per token)" in texts
    for axis, title in (
        ("steps", "optimizer step"),
        ("tokens", "tokens read"),
        ("seconds", "seconds of training (validation left out)"),
    ):
        page.locator("#curve-axis").select_option(axis)
        assert title in chart.locator("text").all_text_contents()
    scale = chart.evaluate("svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width")
    size = chart.evaluate("svg => parseFloat(getComputedStyle(svg.querySelector('text')).fontSize)")
    assert scale * size >= SMALLEST_TEXT
    assert chart.locator("polygon").count() == 4  # a band for each configuration with two seeds or more

    # One menu colors curves, tables and samples alike.
    page.locator("#curve-key").select_option(label="seed")
    assert page.locator("#legend button").all_inner_texts() == ["1", "2", "3"]
    swatches = page.locator("#runs tbody tr .swatch").evaluate_all("all => all.map(each => each.style.backgroundColor)")
    assert len(set(swatches)) == 3
    page.locator("#curve-key").select_option(label="positional_encoding")
    before = chart.locator("polyline").count()
    page.locator("#legend button", has_text="alibi").click()
    assert chart.locator("polyline").count() < before
    assert opened.overflow() == 0


def test_the_page_has_a_dark_mode(browser: Browser, page_file: Path) -> None:
    colors = []
    for dark in (False, True):
        with window(browser, page_file.as_uri(), dark=dark) as opened:
            colors.append(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            line = opened.page.locator("#curve-chart polyline").last
            colors.append(line.get_attribute("stroke"))
    light, light_line, dark_page, dark_line = colors
    assert light != dark_page
    assert light_line != dark_line
