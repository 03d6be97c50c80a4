"""A real TensorBoard, its data and its pages, on a sweep and on failed, killed and resumed runs."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from board import Board, tensorboard, wait_until
from browser import window
from playwright.sync_api import Browser, Page
from workspace import TINY, Run, Workspace

SWEPT = ("positional_encoding=learned,rotary", "seed=1,2")
COMBINATIONS = {("learned", 1), ("learned", 2), ("rotary", 1), ("rotary", 2)}
VALIDATION_STEPS = (10, 20)
EVERY_TEN = ("training.validate_every_steps=10", "training.checkpoint_every_steps=10")
DIVERGING = ("optimizer=sgd", "optimizer.learning_rate=1e30", "schedule=constant", "name=diverged")
METRIC = "val/bits_per_byte"


@pytest.fixture(scope="module")
def home(make_workspace: Callable[[], Workspace]) -> Workspace:
    """A sweep of four jobs, a run that diverged, one that was killed, and one that was resumed to train longer."""
    home = make_workspace()
    home.must("train.py", "-m", *TINY, *EVERY_TEN, *SWEPT)
    assert home.run("train.py", *TINY, *DIVERGING, "training.checkpoint_every_steps=1").code == 2
    # At the second validation, the checkpoint and the curves of the first are written.
    killed = home.start_until("step 20: val", "train.py", *TINY, "name=killed", "training.max_steps=100000", *EVERY_TEN)
    killed.kill()
    killed.communicate()
    longer = home.train(*TINY, *EVERY_TEN, "name=longer")
    home.must("train.py", f"resume={longer.folder}", "training.max_steps=30")
    return home


def find_run(home: Workspace, name: str) -> Run:
    (folder,) = (folder for folder in home.runs() if folder.name.endswith(name))
    return Run(folder)


def sweep_of(home: Workspace) -> Path:
    (folder,) = (home.folder / "outputs" / "multirun").glob("*/*")
    return folder


def tensorboard_name(run: Run, logdir: Path) -> str:
    """Return TensorBoard's name of a run, the path of its event files."""
    return str(run.folder.relative_to(logdir))


def jobs_of(home: Workspace) -> dict[str, Run]:
    """Return the jobs of the sweep by TensorBoard's names."""
    sweep = sweep_of(home)
    runs = [Run(folder) for folder in home.runs() if folder.is_relative_to(sweep)]
    return {tensorboard_name(run, sweep): run for run in runs}


@pytest.fixture(scope="module")
def board(home: Workspace) -> Iterator[Board]:
    """TensorBoard on all runs, once it has read them. The status of a run is in the last file of its folder."""
    outputs = home.folder / "outputs"
    ended = {tensorboard_name(Run(file.parent), outputs) for file in outputs.rglob("metrics.json")}
    killed = tensorboard_name(find_run(home, "killed"), outputs)
    with tensorboard(outputs, home.environment) as board:

        def is_read() -> bool:
            rows = board.rows()
            return {run for run, row in rows.items() if row["statuses"] != ["STATUS_UNKNOWN"]} >= ended and (
                METRIC in rows.get(killed, {"metrics": {}})["metrics"]
            )

        wait_until(is_read, "TensorBoard has read all runs")
        yield board


@pytest.fixture(scope="module")
def pages(home: Workspace) -> Iterator[Board]:
    """TensorBoard on the sweep alone, for the browser."""
    with tensorboard(sweep_of(home), home.environment) as board:
        wait_until(lambda: all(r["statuses"] == ["STATUS_SUCCESS"] for r in board.rows().values()), "runs have ended")
        wait_until(lambda: board.rows().keys() == jobs_of(home).keys(), "TensorBoard has read the sweep")
        yield board


def test_every_run_has_curves_over_all_its_steps(board: Board, home: Workspace) -> None:
    runs = {tensorboard_name(Run(folder), home.folder / "outputs"): Run(folder) for folder in home.runs()}
    assert set(board.get("runs")) == runs.keys()
    for name, run in runs.items():
        if name.endswith(("diverged", "killed")):
            continue
        steps = [*VALIDATION_STEPS, 30] if "longer" in name else [*VALIDATION_STEPS]
        curve = board.curve(name, "val/loss_nats")
        assert [step for step, _ in curve] == steps
        assert curve[-1][1] == pytest.approx(run.metrics["val/loss_nats"], rel=1e-6)
        assert [step for step, _ in board.curve(name, "train/loss_nats")] == list(range(5, steps[-1] + 1, 5))


def test_hparams_begin_with_the_swept_keys_and_have_the_final_metrics(pages: Board, home: Workspace) -> None:
    columns = pages.columns()
    names = [info["name"] for info in columns["hparamInfos"]]
    assert names[:2] == ["positional_encoding.name", "seed"]
    assert len(names) < 25, "few enough to read"
    metrics = [info["name"]["tag"] for info in columns["metricInfos"]]
    assert metrics[0] == METRIC
    assert "hp_metric" not in metrics
    rows = pages.rows()
    assert {(r["hparams"]["positional_encoding.name"], r["hparams"]["seed"]) for r in rows.values()} == COMBINATIONS
    for name, run in jobs_of(home).items():
        assert rows[name]["metrics"] == pytest.approx({metric: final(run, metric) for metric in metrics}, rel=1e-5)


def final(run: Run, metric: str) -> float:
    """Return a final metric from metrics.json, or from its curve if it is not there."""
    return float(run.metrics[metric]) if metric in run.metrics else run.curve(metric)[-1][1]


@pytest.mark.parametrize(("order", "descending"), [("ORDER_ASC", False), ("ORDER_DESC", True)])
def test_hparams_can_be_sorted_by_a_metric(order: str, descending: bool, pages: Board) -> None:
    rows = pages.rows({"metric": {"tag": METRIC, "group": ""}, "order": order})
    values = [row["metrics"][METRIC] for row in rows.values()]
    assert values == sorted(values, reverse=descending)
    assert len(set(values)) == 4


def test_every_run_has_one_row_in_hparams_however_it_ended(board: Board, home: Workspace) -> None:
    rows = board.rows()
    assert len(rows) == len(home.runs()) == 7
    by_name = {name.rpartition("-")[2]: row for name, row in rows.items()}
    assert by_name["diverged"]["statuses"] == ["STATUS_FAILURE"]
    assert METRIC not in by_name["diverged"]["metrics"], "neither a number nor -1"
    assert by_name["killed"]["statuses"] == ["STATUS_UNKNOWN"]
    assert by_name["killed"]["metrics"][METRIC] > 0
    longer = by_name["longer"]
    assert longer["statuses"] == ["STATUS_SUCCESS"]
    assert longer["hparams"]["training.max_steps"] == 30, "the value of the resume"
    assert longer["metrics"][METRIC] == pytest.approx(find_run(home, "longer").metrics[METRIC], rel=1e-6)


def test_custom_scalars_show_training_and_validation_in_one_chart(board: Board) -> None:
    (category,) = board.get("plugin/custom_scalars/layout")["category"]
    tags = {tag for chart in category["chart"] for tag in chart["multiline"]["tag"]}
    assert {"train/loss_nats", "val/loss_nats", "train/bits_per_byte", "val/bits_per_byte"} <= tags
    run = board.get("runs")[0]
    assert all(board.get("plugin/custom_scalars/scalars", run=run, tag=tag)["regex_valid"] for tag in tags)


def count_colored(png: bytes) -> int:
    """Return how many pixels of a PNG are not grey."""
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3]
    return int((pixels.max(axis=-1) - pixels.min(axis=-1) > 0.3).sum())


def test_time_series_draws_training_and_validation_of_all_runs_with_their_names(
    pages: Board, home: Workspace, browser: Browser
) -> None:
    with window(browser, f"{pages.url}#timeseries") as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        page.get_by_role("combobox", name="Filter tags (regex)").fill("^(train|val)/loss_nats$")
        for tag in ("train/loss_nats", "val/loss_nats"):
            card = page.locator("scalar-card", has=page.locator(f"[title='{tag}']")).first
            for name in jobs_of(home):
                card.get_by_text(name).first.wait_for()
            chart = card.locator("line-chart").first
            wait_until(lambda chart=chart: count_colored(chart.screenshot()) > 100, f"{tag} is drawn", pause_of(page))
        assert page.locator("runs-data-table").get_by_text(next(iter(jobs_of(home)))).count() == 1


def pause_of(page: Page) -> Callable[[], None]:
    """Return a pause during which the page keeps running."""
    return lambda: page.wait_for_timeout(300)


def test_text_shows_a_sample_of_every_validation(pages: Board, home: Workspace, browser: Browser) -> None:
    with window(browser, f"{pages.url}#text") as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        for step in VALIDATION_STEPS:
            page.get_by_text(re.compile(rf"^\s*step\s+{step}\s*$")).nth(len(COMBINATIONS) - 1).wait_for()
        assert page.get_by_text("ROMEO:").count() == len(COMBINATIONS) * len(VALIDATION_STEPS)


DRAWN = "images => images.every(image => image.complete && image.naturalWidth > 300)"


def test_images_show_attention_and_the_positional_encoding(pages: Board, home: Workspace, browser: Browser) -> None:
    with window(browser, f"{pages.url}#images") as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        for tag in ("visuals/attention", "visuals/positional_encoding"):
            shown = page.locator("tf-image-loader", has=page.get_by_text(f"tag: {tag}"))
            shown.nth(len(COMBINATIONS) - 1).wait_for()
            pictures = shown.locator("img")
            wait_until(lambda p=pictures: p.count() >= 4 and p.evaluate_all(DRAWN), f"{tag} is drawn", pause_of(page))


ROWS = """cells => {
    const rows = new Map()
    for (const cell of cells) {
        const row = cell.assignedSlot && cell.assignedSlot.closest("tr")
        if (!row || !row.getBoundingClientRect().height) continue
        if (!rows.has(row)) rows.set(row, [])
        rows.get(row).push([cell.getBoundingClientRect().left, cell.innerText.trim()])
    }
    const top = row => row.getBoundingClientRect().top
    return [...rows.keys()].sort((a, b) => top(a) - top(b))
        .map(row => rows.get(row).sort((a, b) => a[0] - b[0]).map(cell => cell[1]))
}"""


def table(page: Page) -> list[dict[str, str]]:
    """Return the rows of the HParams tab from top to bottom, as text by column heading."""
    cells = page.locator("tf-hparams-table-view vaadin-grid-cell-content")
    rows: list[list[str]] = cells.evaluate_all(ROWS)
    rows = [row[1:] if row[:1] == [""] else row for row in rows]  # rows of runs begin with a cell for details
    headings = next((row for row in rows if row[:1] == ["Trial ID"]), [])
    # Not strict: while the page is built, a row may lack its last cells.
    return [dict(zip(headings, row, strict=False)) for row in rows if row and "seed=" in row[0]]


def column(page: Page, heading: str) -> list[Any]:
    texts = [row.get(heading, "") for row in table(page)]
    return [float(text) if re.fullmatch(r"[\d.]+", text) else text for text in texts]


def test_hparams_shows_the_swept_keys_beside_the_final_metrics_and_sorts(
    pages: Board, home: Workspace, browser: Browser
) -> None:
    # Wide enough for all columns.
    with window(browser, f"{pages.url}#hparams", width=1920) as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        wait_until(lambda: len(table(page)) == len(COMBINATIONS), "all runs are in the table", pause_of(page))
        rows = {row["Trial ID"]: row for row in table(page)}
        for name, run in jobs_of(home).items():
            assert rows[name]["positional_encoding.name"] == run.config["positional_encoding"]["name"]
            assert float(rows[name]["seed"]) == run.config["seed"]
            assert float(rows[name][METRIC]) == pytest.approx(run.metrics[METRIC], rel=1e-3)
        assert not [text for row in rows.values() for text in row.values() if text.startswith("-1")]
        for direction in ("Ascending", "Descending"):
            for label, item in (("Sort by", METRIC), ("Direction", direction)):
                menu = page.locator(f"paper-dropdown-menu[label='{label}']")
                menu.click()
                menu.locator("paper-item", has_text=item).first.click()
            best_first = sorted(
                (run.metrics[METRIC] for run in jobs_of(home).values()), reverse=direction != "Ascending"
            )
            expected = pytest.approx(best_first, rel=1e-3)
            wait_until(lambda w=expected: column(page, METRIC) == w, f"rows are sorted, {direction}", pause_of(page))
