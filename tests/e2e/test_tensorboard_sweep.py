"""What the real TensorBoard shows of a sweep, and of runs that failed, were killed or went on: data and pages."""

import io
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from board import Board, tensorboard, until
from browser import window
from playwright.sync_api import Browser, Page
from workspace import TINY, Run, Workspace

SWEPT = ("positional_encoding=learned,rotary", "seed=1,2")
COMBINATIONS = {("learned", 1), ("learned", 2), ("rotary", 1), ("rotary", 2)}
VALIDATED = (10, 20)
EVERY_TEN = ("training.validate_every_steps=10", "training.checkpoint_every_steps=10")
TOO_FAST = ("optimizer=sgd", "optimizer.learning_rate=1e30", "schedule=constant", "name=diverged")
METRIC = "val/bits_per_byte"


@pytest.fixture(scope="module")
def place(make_workspace: Callable[[], Workspace]) -> Workspace:
    """A sweep of four jobs; and a run that diverged, one that was killed, and one that was made longer."""
    place = make_workspace()
    place.must("train.py", "-m", *TINY, *EVERY_TEN, *SWEPT)
    assert place.run("train.py", *TINY, *TOO_FAST, "training.checkpoint_every_steps=1").code == 2
    killed = place.start("train.py", *TINY, "name=killed", "training.max_steps=100000", *EVERY_TEN)
    assert killed.stdout is not None
    validations = (line for line in killed.stdout if "val loss" in line)
    assert next(validations)
    assert next(validations)  # by now the checkpoint of the first is written, and what the curves had until then
    killed.send_signal(signal.SIGKILL)
    killed.stdout.close()
    killed.wait()
    longer = place.train(*TINY, *EVERY_TEN, "name=longer")
    place.must("train.py", f"resume={longer.folder}", "training.max_steps=30")
    return place


def named(place: Workspace, name: str) -> Run:
    (folder,) = (folder for folder in place.runs() if folder.name.endswith(name))
    return Run(folder)


def sweep_of(place: Workspace) -> Path:
    (folder,) = (place.folder / "outputs" / "multirun").glob("*/*")
    return folder


def shown_name(run: Run, logdir: Path) -> str:
    """What TensorBoard calls a run: the way to its event files."""
    return f"{run.folder.relative_to(logdir)}/tensorboard"


def jobs(place: Workspace) -> dict[str, Run]:
    """Of the sweep, by the names that TensorBoard gives them there."""
    sweep = sweep_of(place)
    runs = [Run(folder) for folder in place.runs() if folder.is_relative_to(sweep)]
    return {shown_name(run, sweep): run for run in runs}


@pytest.fixture(scope="module")
def board(place: Workspace) -> Iterator[Board]:
    """TensorBoard on all runs, when it has read them: what says how a run ended is the last file of its folder."""
    outputs = place.folder / "outputs"
    ended = {shown_name(Run(file.parent), outputs) for file in outputs.rglob("metrics.json")}
    killed = shown_name(named(place, "killed"), outputs)
    with tensorboard(outputs, place.environment) as board:

        def is_read() -> bool:
            rows = board.rows()
            return {run for run, row in rows.items() if row["statuses"] != ["STATUS_UNKNOWN"]} >= ended and (
                METRIC in rows.get(killed, {"metrics": {}})["metrics"]
            )

        until(is_read, "TensorBoard has read all runs")
        yield board


@pytest.fixture(scope="module")
def pages(place: Workspace) -> Iterator[Board]:
    """TensorBoard on the sweep alone, for a browser."""
    with tensorboard(sweep_of(place), place.environment) as board:
        until(lambda: all(r["statuses"] == ["STATUS_SUCCESS"] for r in board.rows().values()), "runs have ended")
        until(lambda: board.rows().keys() == jobs(place).keys(), "TensorBoard has read the sweep")
        yield board


def test_every_run_has_its_curves_over_its_steps(board: Board, place: Workspace) -> None:
    runs = {shown_name(Run(folder), place.folder / "outputs"): Run(folder) for folder in place.runs()}
    assert set(board.get("runs")) == runs.keys()
    for name, run in runs.items():
        if name.endswith(("diverged/tensorboard", "killed/tensorboard")):
            continue
        steps = [*VALIDATED, 30] if "longer" in name else [*VALIDATED]
        curve = board.curve(name, "val/loss_nats")
        assert [step for step, _ in curve] == steps
        assert curve[-1][1] == pytest.approx(run.metrics["val/loss_nats"], rel=1e-6)
        assert [step for step, _ in board.curve(name, "train/loss_nats")] == list(range(5, steps[-1] + 1, 5))


def test_hparams_begin_with_what_the_sweep_varies_and_have_the_final_metrics(pages: Board, place: Workspace) -> None:
    columns = pages.columns()
    names = [info["name"] for info in columns["hparamInfos"]]
    assert names[:2] == ["positional_encoding.name", "seed"]
    assert len(names) < 25, "as many as a person can look through"
    metrics = [info["name"]["tag"] for info in columns["metricInfos"]]
    assert metrics[0] == METRIC
    assert "hp_metric" not in metrics
    rows = pages.rows()
    assert {(r["hparams"]["positional_encoding.name"], r["hparams"]["seed"]) for r in rows.values()} == COMBINATIONS
    for name, run in jobs(place).items():
        assert rows[name]["metrics"] == pytest.approx({metric: final(run, metric) for metric in metrics}, rel=1e-5)


def final(run: Run, metric: str) -> float:
    """From metrics.json, or of the training curves that it does not have."""
    return float(run.metrics[metric]) if metric in run.metrics else run.curve(metric)[-1][1]


@pytest.mark.parametrize(("order", "backwards"), [("ORDER_ASC", False), ("ORDER_DESC", True)])
def test_hparams_can_be_sorted_by_a_metric(order: str, backwards: bool, pages: Board) -> None:
    rows = pages.rows({"metric": {"tag": METRIC, "group": ""}, "order": order})
    values = [row["metrics"][METRIC] for row in rows.values()]
    assert values == sorted(values, reverse=backwards)
    assert len(set(values)) == 4


def test_a_run_stands_in_hparams_once_whatever_became_of_it(board: Board, place: Workspace) -> None:
    rows = board.rows()
    assert len(rows) == len(place.runs()) == 7
    by_name = {name.split("/")[-2].rpartition("-")[2]: row for name, row in rows.items()}
    assert by_name["diverged"]["statuses"] == ["STATUS_FAILURE"]
    assert METRIC not in by_name["diverged"]["metrics"], "no number where there is none, and no -1"
    assert by_name["killed"]["statuses"] == ["STATUS_UNKNOWN"]
    assert by_name["killed"]["metrics"][METRIC] > 0
    longer = by_name["longer"]
    assert longer["statuses"] == ["STATUS_SUCCESS"]
    assert longer["hparams"]["training.max_steps"] == 30, "what it went on with"
    assert longer["metrics"][METRIC] == pytest.approx(named(place, "longer").metrics[METRIC], rel=1e-6)


def test_training_and_validation_stand_in_one_chart_of_custom_scalars(board: Board) -> None:
    (category,) = board.get("plugin/custom_scalars/layout")["category"]
    tags = {tag for chart in category["chart"] for tag in chart["multiline"]["tag"]}
    assert {"train/loss_nats", "val/loss_nats", "train/bits_per_byte", "val/bits_per_byte"} <= tags
    run = board.get("runs")[0]
    assert all(board.get("plugin/custom_scalars/scalars", run=run, tag=tag)["regex_valid"] for tag in tags)


def coloured(picture: bytes) -> int:
    """How many pixels of a PNG are no shade of grey."""
    pixels = matplotlib.image.imread(io.BytesIO(picture))[..., :3]
    return int((pixels.max(axis=-1) - pixels.min(axis=-1) > 0.3).sum())


def test_time_series_draws_training_and_validation_of_all_runs_with_their_names(
    pages: Board, place: Workspace, browser: Browser
) -> None:
    with window(browser, f"{pages.url}#timeseries") as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        page.get_by_role("combobox", name="Filter tags (regex)").fill("^(train|val)/loss_nats$")
        for tag in ("train/loss_nats", "val/loss_nats"):
            card = page.locator("scalar-card", has=page.locator(f"[title='{tag}']")).first
            for name in jobs(place):
                card.get_by_text(name).first.wait_for()
            chart = card.locator("line-chart").first
            until(lambda chart=chart: coloured(chart.screenshot()) > 100, f"{tag} is drawn", pausing(page))
        assert page.locator("runs-data-table").get_by_text(next(iter(jobs(place)))).count() == 1


def pausing(page: Page) -> Callable[[], None]:
    """A pause in which the page goes on."""
    return lambda: page.wait_for_timeout(300)


def test_text_shows_a_sample_of_every_validation(pages: Board, place: Workspace, browser: Browser) -> None:
    with window(browser, f"{pages.url}#text") as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        for step in VALIDATED:
            page.get_by_text(re.compile(rf"^\s*step\s+{step}\s*$")).nth(len(COMBINATIONS) - 1).wait_for()
        assert page.get_by_text("ROMEO:").count() == len(COMBINATIONS) * len(VALIDATED)


DRAWN = "images => images.every(image => image.complete && image.naturalWidth > 300)"


def test_images_show_attention_and_the_positional_encoding(pages: Board, place: Workspace, browser: Browser) -> None:
    with window(browser, f"{pages.url}#images") as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        for tag in ("visuals/attention", "visuals/positional_encoding"):
            shown = page.locator("tf-image-loader", has=page.get_by_text(f"tag: {tag}"))
            shown.nth(len(COMBINATIONS) - 1).wait_for()
            pictures = shown.locator("img")
            until(lambda p=pictures: p.count() >= 4 and p.evaluate_all(DRAWN), f"{tag} is drawn", pausing(page))


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
    """The HParams tab as it stands there, from top to bottom: text by heading."""
    cells = page.locator("tf-hparams-table-view vaadin-grid-cell-content")
    rows: list[list[str]] = cells.evaluate_all(ROWS)
    rows = [row[1:] if row[:1] == [""] else row for row in rows]  # a row of runs begins with one for its details
    headings = next((row for row in rows if row[:1] == ["Trial ID"]), [])
    # Not strict: while the page is being built, a row may lack its last cells.
    return [dict(zip(headings, row, strict=False)) for row in rows if row and row[0].endswith("/tensorboard")]


def column(page: Page, heading: str) -> list[Any]:
    texts = [row.get(heading, "") for row in table(page)]
    return [float(text) if re.fullmatch(r"[\d.]+", text) else text for text in texts]


def test_hparams_shows_the_swept_keys_beside_the_final_metrics_and_sorts(
    pages: Board, place: Workspace, browser: Browser
) -> None:
    # As wide as it takes for all columns to be on the screen.
    with window(browser, f"{pages.url}#hparams", width=1920) as opened:
        page = opened.page
        page.set_default_timeout(300_000)
        until(lambda: len(table(page)) == len(COMBINATIONS), "all runs are in the table", pausing(page))
        rows = {row["Trial ID"]: row for row in table(page)}
        for name, run in jobs(place).items():
            assert rows[name]["positional_encoding.name"] == run.config["positional_encoding"]["name"]
            assert float(rows[name]["seed"]) == run.config["seed"]
            assert float(rows[name][METRIC]) == pytest.approx(run.metrics[METRIC], rel=1e-3)
        assert not [text for row in rows.values() for text in row.values() if text.startswith("-1")]
        for direction in ("Ascending", "Descending"):
            for label, item in (("Sort by", METRIC), ("Direction", direction)):
                menu = page.locator(f"paper-dropdown-menu[label='{label}']")
                menu.click()
                menu.locator("paper-item", has_text=item).first.click()
            best_first = sorted((run.metrics[METRIC] for run in jobs(place).values()), reverse=direction != "Ascending")
            wanted = pytest.approx(best_first, rel=1e-3)
            until(lambda w=wanted: column(page, METRIC) == w, f"rows are sorted, {direction}", pausing(page))
