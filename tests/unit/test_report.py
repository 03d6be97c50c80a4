"""A report groups runs by configuration, compares them fairly, and runs nothing that the run folders contain."""

import csv
import io
import json
import math
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import folio.report
from folio.report import make_report, print_report, report_sweep, write_report
from folio.report.colors import DARK, LIGHT, assign_styles
from folio.report.curves import RunCurve, kept_points, mean_curve, training_seconds
from folio.report.grouping import distinguishing_keys
from folio.report.page import to_html
from folio.report.reading import read_folders, shorten_run_names
from folio.report.report import report_commands
from folio.report.tables import compared_text, groups_csv, runs_csv, to_markdown
from folio.report.text import natural_sort_key
from folio.runs.test_looks import record_look
from folio.runtime.errors import FolioError

WriteRun = Callable[..., Path]
KIND = "positional_encoding.name"

HOSTILE = (
    '<script>document.title = "owned"</script><img src=x onerror="alert(1)">&amp; | `x` \x1b[2J\x1b]0;t\x07 \u202e'
)


@pytest.fixture
def three_kinds(write_run: WriteRun, tmp_path: Path) -> Path:
    """rotary is far better than learned, sinusoidal about equal to it; three seeds each."""
    for kind, losses in {
        "rotary": (1.500, 1.510, 1.505),
        "learned": (1.60, 1.62, 1.61),
        "sinusoidal": (1.615, 1.605, 1.618),
    }.items():
        for seed, loss in enumerate(losses, start=1):
            write_run(f"sweep/{kind}-{seed}", {"seed": seed, KIND: kind}, loss=loss, curve=(4.0, 2.0, loss))
    return tmp_path / "sweep"


def test_runs_are_chosen_and_described_by_their_tags(write_run: WriteRun, tmp_path: Path) -> None:
    for number, tags in enumerate((["baseline", "char"], ["baseline"], ["a | b"], [])):
        write_run(f"runs/{number}", {"seed": number % 2, KIND: ("rotary", "learned")[number // 2], "tags": tags})
    write_run("runs/4", {"tags": "baseline", "notes": HOSTILE})
    folder = tmp_path / "runs"
    report = make_report([folder])
    assert len(report.runs) == 5
    assert [group.tags for group in report.groups if group.tags] == [["a | b"], ["baseline", "char"]]
    assert [row["tags"] for row in rows_of(runs_csv(report))] == ["baseline, char", "baseline", "a | b", "", ""]
    assert to_markdown(report, []).count("baseline, char") == 1
    page = to_html(report, {})
    assert page.count('<span class="remark">baseline, char</span>') == 2
    assert "<script>document" not in page
    assert [run.name for run in make_report([folder], tags=["baseline"]).runs] == ["0", "1"]
    assert [run.name for run in make_report([folder], tags=["baseline", "char"]).runs] == ["0"]
    with pytest.raises(FolioError, match=r"--tag=basline: no run has this tag; did you mean baseline\?"):
        make_report([folder], tags=["basline"])
    with pytest.raises(FolioError, match=r"no run has these tags; the runs have a \| b, baseline and char"):
        make_report([folder], tags=["char", "a | b"])


def test_figures_of_a_test_split_are_shown_only_on_request_and_the_looks_always(
    write_run: WriteRun, tmp_path: Path
) -> None:
    for number, losses in enumerate(([3.25, 3.125], [3.375], [])):
        folder = write_run(f"runs/{number}", {"seed": number})
        for loss in losses:
            record_look(folder, {"tokens_sha256": "a", "metrics": {"loss_nats": loss, "accuracy": math.nan}})
    folder = tmp_path / "runs"
    with pytest.raises(FolioError, match="--test: none of these runs has a figure of its test split"):
        make_report([folder / "2"], with_test=True)
    record_look(folder / "1", {"context_length": 8, "metrics": {"loss_nats": 9.0}})
    console = Console(file=io.StringIO(), width=200)
    for with_test in (False, True):
        report = make_report([folder], with_test=with_test)
        rows = rows_of(runs_csv(report))
        losses = [row["test/loss_nats"] for row in rows] if with_test else ["test/loss_nats" in row for row in rows]
        assert losses == (["3.125", "3.375", ""] if with_test else [False] * 3)
        markdown = to_markdown(report, [])
        assert ("3.2500 ± 0.1768" in markdown) == with_test, "the mean over two seeds"
        assert ("3.2500" in to_html(report, {})) == with_test
        assert report.primary.metric == "val/bits_per_byte", "a test split decides nothing"
        print_report(report, console)
        assert console.file.getvalue().count("The test split was looked at 4 times, in 2 of 3 runs.") == 1 + with_test
    record_look(folder / "2", {"tokens_sha256": "b", "metrics": {"loss_nats": 1.0}})
    assert "test losses do not compare" in to_markdown(make_report([folder]), [])
    (folder / "0" / "test.jsonl").unlink()
    os.mkfifo(folder / "0" / "test.jsonl")
    assert "test.jsonl is damaged" in make_report([folder]).warnings[0]


def test_losses_on_different_validation_splits_of_one_text_are_not_compared(
    write_run: WriteRun, tmp_path: Path
) -> None:
    for number in range(2):
        folder = write_run(f"runs/{number}", {"seed": number})
        summary = json.loads((folder / "preflight.json").read_text()) if (folder / "preflight.json").exists() else {}
        (folder / "preflight.json").write_text(json.dumps(summary | {"val_bytes": 100 + number}))
    report = make_report([tmp_path / "runs"])
    assert (report.primary.metric, "different validation splits" in report.primary.reason) == (None, True)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def data_of(page: str) -> str:
    """Return the JSON that the page's script reads."""
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    return data[1]


def test_runs_that_differ_only_in_the_seed_are_one_configuration(three_kinds: Path) -> None:
    report = make_report([three_kinds])
    assert report.grouping.keys == [KIND]
    assert [(group.label, len(group.averaged)) for group in report.groups] == [
        ("learned", 3),
        ("rotary", 3),
        ("sinusoidal", 3),
    ]
    found = report.groups[1].summary("val/loss_nats")
    assert found is not None
    assert (found.n, found.mean, found.std) == (3, pytest.approx(1.505), pytest.approx(0.005))


def test_a_winner_is_named_if_its_difference_is_significant(three_kinds: Path) -> None:
    comparison = make_report([three_kinds]).comparison
    assert comparison.best == 1
    assert comparison.has_winner
    assert comparison.conclusion == (
        "rotary has the lowest mean bits per byte (n = 3). Its differences from all 2 others with at least two seeds "
        "are significant."
    )


def test_no_winner_is_named_if_its_difference_is_not_significant(three_kinds: Path, write_run: WriteRun) -> None:
    for seed, loss in enumerate((1.49, 1.52, 1.50), start=1):
        write_run(f"sweep/alibi-{seed}", {"seed": seed, KIND: "alibi"}, loss=loss)
    report = make_report([three_kinds])
    assert report.comparison.conclusion == (
        "No winner: alibi has the lowest mean bits per byte (n = 3), but its difference from rotary is not significant."
    )
    assert not report.comparison.has_winner
    assert compared_text(report, 2).endswith(": not significant")
    assert compared_text(report, 1).endswith(": higher")


def test_a_single_run_never_wins(three_kinds: Path, write_run: WriteRun) -> None:
    write_run("sweep/alibi-1", {"seed": 1, KIND: "alibi"}, loss=0.5)
    report = make_report([three_kinds])
    assert report.groups[0].label == "alibi"
    assert report.comparison.best == 2
    assert compared_text(report, 0) == "not tested"
    assert report.comparison.conclusion.endswith(
        " alibi has only one seed and is not tested, although its value is lower."
    )


def test_configurations_with_one_seed_each_have_no_winner(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", {KIND: "rotary"}, loss=1.0)
    write_run("b", {KIND: "none"}, loss=2.0)
    assert make_report([tmp_path]).comparison.conclusion.startswith(
        "No winner: rotary has the lowest bits per byte, but"
    )


def test_unfinished_runs_are_listed_with_their_error_and_are_in_no_mean(three_kinds: Path, write_run: WriteRun) -> None:
    write_run("sweep/rotary-4", {"seed": 4, KIND: "rotary"}, loss=9.0, status="diverged")
    write_run("sweep/rotary-5", {"seed": 5, KIND: "rotary"}, loss=8.0, status="interrupted")
    write_run("sweep/rotary-6", {"seed": 6, KIND: "rotary"}, status="failed", error="out of memory")
    write_run("sweep/rotary-7", {"seed": 7, KIND: "rotary"}, status=None)
    report = make_report([three_kinds])
    found = report.groups[1].summary("val/loss_nats")
    assert found is not None
    assert (found.n, found.mean) == (3, pytest.approx(1.505))
    assert [(run.name, run.status, run.error) for run in report.unfinished] == [
        ("rotary-4", "diverged", ""),
        ("rotary-5", "interrupted", ""),
        ("rotary-6", "failed", "out of memory"),
        ("rotary-7", "unfinished", ""),
    ]
    assert report.status_counts() == "9 finished, 1 diverged, 1 interrupted, 1 failed, 1 unfinished"
    assert any(note.startswith("4 runs did not finish") for note in report.notes)
    in_mean = {row["run"]: row["in_mean"] for row in rows_of(runs_csv(report))}
    assert (in_mean["rotary-3"], in_mean["rotary-4"]) == ("yes", "no")


def test_the_same_seed_twice_is_one_sample(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", loss=1.0)
    write_run("b", loss=3.0)
    report = make_report([tmp_path])
    (group,) = report.groups
    assert group.metric_values("val/loss_nats") == [3.0]
    assert "Not counted, because a later run has the same config and seed: a." in report.notes


def test_paths_and_logging_do_not_make_a_configuration(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", {"seed": 1, "paths.output_dir": "x", "name": "one"})
    write_run("b", {"seed": 2, "paths.output_dir": "y", "name": "two"})
    report = make_report([tmp_path])
    assert len(report.groups) == 1
    assert "These keys differ too, but change no result: name and paths.output_dir." in report.notes


def test_a_configuration_is_named_by_the_typed_key_alone(write_run: WriteRun, tmp_path: Path) -> None:
    for name, rate in (("adam", 1e-4), ("adamw", 1e-3), ("sgd", 1e-1)):
        folder = write_run(name, {"optimizer.name": name, "optimizer.learning_rate": rate})
        (folder / "overrides.json").write_text(json.dumps([f"optimizer={name}", "seed=1"]))
    grouping = make_report([tmp_path]).grouping
    assert (grouping.keys, grouping.dependent_keys) == (["optimizer.name"], ["optimizer.learning_rate"])


def test_distinguishing_keys_are_the_typed_ones_and_as_few_others_as_possible() -> None:
    keys = ["a", "b.name", "c"]
    rows = [("1", "x", "p"), ("1", "y", "p"), ("2", "x", "q"), ("2", "y", "q")]
    assert distinguishing_keys(keys, rows, typed=[]) == ["a", "b.name"]
    assert distinguishing_keys(keys, rows, typed=["c"]) == ["b.name", "c"]
    assert distinguishing_keys(keys, rows, typed=["a", "c"]) == ["a", "b.name", "c"]
    assert distinguishing_keys([], [()], typed=[]) == []


def test_a_search_shows_every_key_that_it_varied(write_run: WriteRun, tmp_path: Path) -> None:
    for name, rate, dropout in (("trial=0", 0.01, 0.2), ("trial=1", 0.003, 0.05)):
        folder = write_run(name, {"optimizer.learning_rate": rate, "model.dropout": dropout})
        (folder / "overrides.json").write_text(
            json.dumps([f"optimizer.learning_rate={rate}", f"model.dropout={dropout}"])
        )
    report = make_report([tmp_path])
    assert set(report.grouping.keys) == {"optimizer.learning_rate", "model.dropout"}
    assert report.grouping.dependent_keys == []


def test_configurations_that_differ_in_many_keys_have_unique_labels(write_run: WriteRun, tmp_path: Path) -> None:
    keys = ("model.n_layers", "model.d_model", "optimizer.learning_rate", "training.max_steps")
    for number in range(8):
        bits = {key: 1 + (number >> place & 1) for place, key in enumerate(keys[:3])}
        write_run(f"r{number}", bits | {keys[3]: 1 + number // 4, "name": f"try{number}", "model.bias": number == 3})
        write_run(f"s{number}", bits | {keys[3]: 3 + number, "name": f"other{number}", "model.bias": number == 3})
    report = make_report([tmp_path])
    labels = [group.label for group in report.groups]
    assert len(set(labels)) == len(labels) == 16


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"objective.name": "masked_lm"}, "different objectives"), ({}, "different texts")],
)
def test_runs_that_cannot_be_compared_are_not(
    changes: dict[str, Any], reason: str, write_run: WriteRun, tmp_path: Path
) -> None:
    write_run("a")
    other = write_run("b", {KIND: "none", **changes})
    if not changes:
        (other / "preflight.json").write_text(json.dumps({"text_sha256": "1" * 64}))
    comparison = make_report([tmp_path]).comparison
    assert reason in comparison.conclusion
    assert comparison.best is None


def test_the_primary_metric_is_bits_per_byte_or_else_the_loss(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", **{"val/bits_per_byte": None})
    write_run("b", {"seed": 2})
    assert make_report([tmp_path]).primary.metric == "val/loss_nats"
    write_run("c", {"tokenizer.name": "word"})
    assert "different tokenizers" in make_report([tmp_path]).comparison.conclusion


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model=debug,seed=1", "model=debug,seed=2"], ["seed=1", "seed=2"]),
        (["a/model=debug,seed=1", "b/model=debug,seed=1"], ["a/model=debug,seed=1", "b/model=debug,seed=1"]),
        (["model=debug", "model=debug,seed=2"], ["model=debug", "model=debug,seed=2"]),
        (["one,two", "one,three"], ["one,two", "one,three"]),
        (["model=debug,seed=1"], ["model=debug,seed=1"]),
    ],
)
def test_overrides_that_all_runs_share_are_left_out_of_their_names(names: list[str], expected: list[str]) -> None:
    assert shorten_run_names(names) == expected


def test_runs_are_found_recursively_and_each_counts_once(three_kinds: Path, tmp_path: Path) -> None:
    (three_kinds / "circle").symlink_to(tmp_path, target_is_directory=True)
    report = make_report([tmp_path, three_kinds, three_kinds / "rotary-1"])
    assert len(report.runs) == 9
    assert make_report([three_kinds / "rotary-1"]).runs[0].name == "rotary-1"


def test_runs_with_damaged_files_are_left_out_with_a_warning(three_kinds: Path) -> None:
    (three_kinds / "rotary-1" / "metrics.json").write_text("{")
    (three_kinds / "rotary-2" / "metrics.json").write_text("[" * 100_000)
    (three_kinds / "rotary-3" / "config.yaml").write_text("a: &x [*x]")
    (three_kinds / "learned-1" / "metrics.json").write_bytes(b"\xff\xfe")
    (three_kinds / "learned-2" / "metrics.json").write_text("[1]")
    (three_kinds / "learned-3" / "csv" / "metrics.csv").write_text("step,name,value\nx,y,z\n")
    report = make_report([three_kinds])
    assert len(report.runs) == 4
    for name in ("rotary-1", "rotary-2", "learned-1", "learned-2"):
        assert any(f"{name}/metrics.json is damaged; this run is left out" in line for line in report.warnings), name
    assert any("rotary-3/config.yaml is not plain YAML" in line for line in report.warnings)
    assert any("the curves of" in line and "learned-3" in line for line in report.warnings)


def test_metrics_that_are_not_finite_numbers_are_left_out(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", **{"val/perplexity": float("inf"), "val/loss_nats": "<b>", "elapsed_s": 10**399, "step": True})
    report = make_report([tmp_path])
    assert {"val/perplexity", "val/loss_nats", "elapsed_s", "step"}.isdisjoint(report.runs[0].metrics)
    assert "Infinity" not in data_of(to_html(report, {}))


def test_a_folder_without_runs_is_one_line_of_error(tmp_path: Path) -> None:
    with pytest.raises(FolioError, match="no run that can be read"):
        make_report([tmp_path])
    with pytest.raises(FolioError, match="is not a folder"):
        make_report([tmp_path / "nowhere"])


def test_a_folder_that_is_not_a_run_is_left_out(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.json").write_text('{"accuracy": 1}')
    report = make_report([tmp_path])
    assert [run.name for run in report.runs] == ["a"]
    assert "it has no status" in report.warnings[0]


def test_the_key_to_group_by_may_be_short_and_must_exist(three_kinds: Path) -> None:
    report = make_report([three_kinds], "positional_encoding")
    assert report.group_by == KIND
    with pytest.raises(FolioError, match=r"--group-by=sead is not a key .*; did you mean seed\?"):
        make_report([three_kinds], "sead")


def test_a_sweep_lists_its_command_its_failed_jobs_and_its_missing_jobs(three_kinds: Path) -> None:
    failed = three_kinds / "positional_encoding=rope,seed=1"
    failed.mkdir()
    (failed / "metrics.json").write_text(json.dumps({"status": "failed", "error": "no such option", "seed": 1}))
    jobs = [{"folder": failed.name, "overrides": ["positional_encoding=rope", "seed=1"], "status": "failed"}]
    jobs += [{"folder": "gone", "overrides": ["name=a b"], "status": "missing"}]
    jobs += [{"folder": "rotary-1", "overrides": ["positional_encoding=rotary"], "status": "finished"}]
    sweep = {"command": ["train.py", "-m", "positional_encoding=rotary,alibi", "name=b; rm -rf ~"], "jobs": jobs}
    (three_kinds / "sweep.json").write_text(json.dumps(sweep))
    report = make_report([three_kinds])
    assert [(run.name, run.status, run.error) for run in report.unfinished] == [
        ("gone", "missing", ""),
        ("positional_encoding=rope,seed=1", "failed", "no such option"),
    ]
    assert len(report.groups) == 3
    assert report_commands(report) == ["python train.py -m positional_encoding=rotary,alibi 'name=b; rm -rf ~'"]
    assert "python train.py &#39;name=a b&#39;" in to_html(report, {})


def test_a_command_that_says_more_than_what_to_train_is_not_shown(three_kinds: Path) -> None:
    sweep = {
        "command": ["train.py", "-m", "experiment=../../evil/x"],
        "jobs": [{"folder": "rotary-1", "overrides": ["+hydra.callbacks.x._target_=evil"], "status": "finished"}],
    }
    (three_kinds / "sweep.json").write_text(json.dumps(sweep))
    (three_kinds / "learned-1" / "overrides.json").write_text(json.dumps(["--config-dir=/evil"]))
    report = make_report([three_kinds])
    assert "evil" not in "".join(report_commands(report)) + to_html(report, {})


@pytest.mark.parametrize("text", ["[]", "{", '{"jobs": [3]}', '{"jobs": [{"folder": "x", "overrides": 3}]}', "null"])
def test_a_damaged_sweep_json_loses_only_the_command(text: str, three_kinds: Path) -> None:
    (three_kinds / "sweep.json").write_text(text)
    report = make_report([three_kinds])
    assert len(report.runs) == 9
    assert "sweep.json is damaged" in report.warnings[0]


def test_text_from_runs_is_escaped_everywhere(write_run: WriteRun, tmp_path: Path) -> None:
    name = "<b>bold</b> [link](x) `t`"
    folder = write_run(name, {KIND: HOSTILE}, sample=HOSTILE, device=HOSTILE, git_commit=HOSTILE)
    (folder / "overrides.json").write_text(json.dumps([HOSTILE]))
    write_run("=cmd|' /C calc'!A0", {"seed": 2}, status="failed", error=HOSTILE)
    sweep = {"command": [HOSTILE], "jobs": [{"folder": HOSTILE, "overrides": [HOSTILE], "status": HOSTILE}]}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    report = make_report([tmp_path], command=["report.py", HOSTILE])
    page = to_html(report, {})
    assert page.count("<script") == 2  # the data and the page's own
    assert "<img" not in page
    assert "<b>" not in page
    assert name in {run["name"] for run in json.loads(data_of(page))["runs"]}
    text = to_markdown(report, [])
    # Shown as it is: outside of code, HTML is escaped.
    assert not [line for line in text.splitlines() if "<" in line and not line.startswith("    ")]
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    terminal = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    for shown in (page, text, runs_csv(report), groups_csv(report), terminal):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", shown)
    runs = rows_of(runs_csv(report))
    assert "'=cmd|' /C calc'!A0" in {row["run"] for row in runs}


def test_the_page_allows_no_other_script_and_needs_no_network(three_kinds: Path) -> None:
    page = to_html(make_report([three_kinds]), {"a.png": b"\x89PNG"})
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    addresses = set(re.findall(r"""(?:src|href)=["']([^"']*)""", page))
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page) == []


def test_all_files_are_written_and_the_tables_have_the_results(three_kinds: Path, tmp_path: Path) -> None:
    report = make_report([three_kinds])
    written = write_report(report, tmp_path / "out")
    assert [path.name for path in written] == [
        "report.html",
        "report.csv",
        "report_configurations.csv",
        "report.md",
        "report_results.png",
        "report_curves.png",
    ]
    for path in written[4:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    runs = rows_of(written[1].read_text())
    assert [float(row["val/loss_nats"]) for row in runs if row["configuration"] == "rotary"] == [1.5, 1.51, 1.505]
    configurations = {row["configuration"]: row for row in rows_of(written[2].read_text())}
    assert configurations["rotary"]["val/loss_nats/n"] == "3"
    assert float(configurations["rotary"]["val/loss_nats/standard_deviation"]) == pytest.approx(0.005)
    assert "| rotary | 3 | 1.5050 ± 0.0050 |" in written[3].read_text()
    assert "![report curves](report_curves.png)" in written[3].read_text()


def test_a_report_of_runs_without_results_is_complete(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", status=None)
    write_run("b", {"dry_run": True}, status=None)
    report = make_report([tmp_path])
    assert [run.status for run in report.runs] == ["unfinished", "dry run"]
    assert report.comparison.conclusion == "No run has finished, so there is nothing to compare."
    written = write_report(report, tmp_path)
    assert {path.suffix for path in written} == {".html", ".csv", ".md"}


def test_a_sweep_is_reported_in_its_folder(three_kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_sweep(three_kinds)
    printed = capsys.readouterr().out
    assert "rotary has the lowest mean" in printed
    assert printed.rstrip().endswith("report.html")
    assert (three_kinds / "report.html").is_file()


def test_a_curve_has_tokens_and_seconds(write_run: WriteRun, tmp_path: Path) -> None:
    """10 steps of 100 tokens at 1,000 tokens/s take a second."""
    write_run("a", curve=(3.0, 2.0, 1.5))
    ((run,), _) = read_folders([tmp_path], pytest.fail)
    assert run.curves["val/loss_nats"] == RunCurve(
        [10, 20, 30], [3.0, 2.0, 1.5], [1000, 2000, 3000], [pytest.approx(s) for s in (1.0, 2.0, 3.0)]
    )


def test_seconds_follow_the_logged_throughput_and_continue_at_the_last() -> None:
    seconds = training_seconds([10, 20, 30], [100.0, 50.0, float("nan")], tokens_per_step=10.0)
    assert seconds is not None
    assert [seconds(step) for step in (0, 5, 10, 15, 20, 25)] == pytest.approx([0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
    assert training_seconds([10], [0.0], 10.0) is None


def test_the_mean_curve_has_the_steps_that_all_curves_have(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", {"seed": 1}, curve=(3.0, 2.0, 1.0))
    write_run("b", {"seed": 2}, curve=(5.0, 3.0))
    runs, _ = read_folders([tmp_path], pytest.fail)
    curves = [run.curves["val/loss_nats"] for run in runs]
    found = mean_curve(curves)
    assert found is not None
    assert (found.mean.steps, found.mean.values, found.n) == ([10, 20], [4.0, 2.5], 2)
    assert (found.low, found.high) == ([3.0, 2.0], [5.0, 3.0])
    assert mean_curve(curves[:1]) is None


def test_long_curves_keep_a_part_of_their_points_and_the_last() -> None:
    kept = kept_points(2000)
    assert len(kept) <= 401
    assert (kept[0], kept[-1]) == (0, 1999)
    assert kept_points(3) == [0, 1, 2]


def test_the_last_sample_is_shown_as_it_was_written(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a", sample="ROMEO:\n\n  two blanks\n## Step 9 is no heading")
    ((run,), _) = read_folders([tmp_path], pytest.fail)
    assert (run.sample_step, run.sample) == (40, "ROMEO:\n\n  two blanks\n## Step 9 is no heading")


def test_styles_are_distinct_and_numbers_have_a_color_scale() -> None:
    words = assign_styles([f"kind {number}" for number in range(20)])
    assert len({(style.light, style.dash) for style in words.values()}) == 20
    assert len(LIGHT) == len(DARK)
    numbers = assign_styles([str(10.0**-power) for power in range(12)])
    assert len({style.light for style in numbers.values()}) == 12


def test_the_files_of_the_page_are_installed_with_the_package() -> None:
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["folio"]
    package = Path(folio.report.__file__).parent.parent
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assert {package / "report" / "page" / f"page.{kind}" for kind in ("html", "css", "js")} <= packed


def test_names_are_sorted_by_their_numbers() -> None:
    names = ["dropout=0.0121", "dropout=0.15", "dropout=1e-05", "seed=10", "seed=2", "2026-11-23", "2026-2-1"]
    assert sorted(names, key=natural_sort_key) == [
        "2026-2-1",
        "2026-11-23",
        "dropout=1e-05",
        "dropout=0.0121",
        "dropout=0.15",
        "seed=2",
        "seed=10",
    ]


def test_the_report_of_a_sweep_is_named_after_the_keys_that_it_varied(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in (1, 2):
        for encoding in ("learned", "rotary"):
            write_run(f"00-55-59/{encoding},seed={seed}", {"positional_encoding.name": encoding, "seed": seed})
    sweep = tmp_path / "00-55-59"
    assert make_report([sweep]).title == "00-55-59"
    (sweep / "sweep.json").write_text(json.dumps({"command": [], "jobs": []}))
    assert make_report([sweep]).title == "positional_encoding, seed: 00-55-59"
