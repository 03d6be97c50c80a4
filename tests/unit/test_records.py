"""Published results: the page is what its records say, a row can be repeated, and a result is judged by a rule."""

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folio.config.run import RunConfig
from folio.report import make_report
from folio.report.against import RULE, compare_with_record, judge, verdict_lines
from folio.report.records import (
    RECORDS,
    Record,
    Study,
    find_row,
    identity_of,
    merge_rows,
    read_study,
    record_group,
    study_path,
    write_study,
)
from folio.report.records_page import PLOT_KINDS, digest_in, render_page, table
from folio.report.records_plots import PLOTS
from folio.report.statistics import Summary, summarize
from folio.runtime.commands import CHECKOUT
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import UntrustedFileError

PAGE = RECORDS.parents[1] / "results.md"
STUDIES = sorted(RECORDS.glob("*.json"))
WRITE = Callable[..., Path]

each_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


# The published page


def test_tables_and_plots_of_the_page_are_what_its_records_say() -> None:
    """`python scripts/results_page.py` makes them again."""
    text, plots = render_page(PAGE, RECORDS)
    assert text == PAGE.read_text(encoding="utf-8")
    assert {image: digest_in(PAGE.parent / image) for image in plots} == {
        image: plot.digest for image, plot in plots.items()
    }


def test_every_table_of_the_page_has_a_record_and_every_record_a_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    marked = re.findall(r"<!-- records: (\w+) .*?<!-- end -->", text, re.DOTALL)
    assert sorted(marked) == [path.stem for path in STUDIES]
    assert "\n|" not in re.sub(r"<!-- records: .*?<!-- end -->", "", text, flags=re.DOTALL)


def test_the_script_writes_the_page_and_its_plots_and_then_finds_them_up_to_date(tmp_path: Path) -> None:
    main = runpy.run_path(str(CHECKOUT / "scripts" / "results_page.py"))["main"]
    page, records = tmp_path / "page.md", tmp_path / "results" / "records"
    records.mkdir(parents=True)
    shutil.copy(RECORDS / "ladder.json", records)
    page.write_text(
        "<!-- records: ladder | d_model | bits per byte -->\n<!-- end -->\n"
        "<!-- plot: ladder | scaling | Law -->\n<!-- end -->\n"
    )
    with pytest.raises(FolioError, match=r"^page\.md, results/ladder\.png: not what the records say"):
        main(page=page, records=records, check=True)
    main(page=page, records=records, check=False)
    main(page=page, records=records, check=True)
    assert "| d_model | bits per byte |\n|---|---|\n| 32" in page.read_text()
    record = records / "ladder.json"
    write_study(record, Study(rows=read_study(record).rows[1:]))
    with pytest.raises(FolioError, match=r"page\.md, results/ladder\.png"):
        main(page=page, records=records, check=True)


@each_study
def test_a_record_has_no_private_path(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r'(?:"|=|\[|,)(?:/|~)[^"]*', text)


@each_study
def test_every_row_that_train_py_made_has_a_command_that_repeats_it(
    path: Path, compose: Callable[..., RunConfig]
) -> None:
    """It composes to the row's config, apart from what text and machine decide."""
    rows = [row for row in read_study(path).rows if row.command is not None]
    assert [row.repeat_command()[:16] for row in rows] == len(rows) * ["python train.py "]
    for row in [row for row in rows if row.config]:
        composed = identity_of(compose(*(row.command or [])).model_dump(mode="json"), row.text_sha256)
        assert {key: value for key, value in composed.items() if row.identity.get(key) != value} == {}


# Records of runs


@pytest.fixture
def three_seeds(write_run: WRITE, tmp_path: Path) -> Path:
    """Three runs with private paths in their configs and their commands."""
    for seed, loss in ((1, 2.0), (2, 2.1), (3, 2.2)):
        folder = write_run(
            f"sweep/{seed}",
            {
                "seed": seed,
                "notes": "a secret",
                "data": {"name": "text_file", "path": "/home/someone/my text.txt"},
                "paths": {"data_dir": "/home/someone/data"},
                "trainer": {"threads": 2, "precision": "32-true"},
            },
            loss=loss,
            curve=(3.0, 2.5, loss),
            versions={"torch": "2.13.0"},
        )
        words = ["data=text_file", "data.path=/home/someone/my text.txt", "notes=a secret", f"seed={seed}"]
        (folder / "overrides.json").write_text(json.dumps([*words, "paths.data_dir=/home/someone/data"]))
    return tmp_path / "sweep"


def records_of(folder: Path, **labels: str) -> list[Record]:
    return [record_group(group, labels) for group in make_report([folder]).groups]


def test_a_record_holds_what_repeats_and_compares_a_row_and_nothing_private(three_seeds: Path, tmp_path: Path) -> None:
    file = tmp_path / "records" / "mine.json"
    write_study(file, Study(rows=records_of(three_seeds, variant="first")))
    assert "someone" not in file.read_text()
    assert "secret" not in file.read_text()
    (row,) = read_study(file).rows
    assert row.repeat_command() == "python train.py -m data=text_file 'data.path=my text.txt' seed=1,2,3"
    assert row.config["data"]["path"] == "my text.txt"
    assert row.summary("val/loss_nats") == summarize([2.0, 2.1, 2.2])
    assert [point["val/loss_nats"] for point in row.runs[2].validations] == [3.0, 2.5, 2.2]
    assert [point["step"] for point in row.runs[2].validations] == [10, 20, 30]
    assert row.runs[0].versions == {"torch": "2.13.0"}
    assert row.runs[0].device == "CPU (x86_64, 1 threads)"
    assert row.runs[0].metrics["elapsed_s"] == 12.5


def test_a_row_takes_the_place_of_the_same_configuration_or_of_its_transcription(three_seeds: Path) -> None:
    (new,) = records_of(three_seeds)
    assert new.command == ["data=text_file", "data.path=my text.txt"]
    other = Record(transcribed=True, command=["data=text_file", "model=debug"], labels={"variant": "other"})
    same = Record(
        transcribed=True,
        chosen=True,
        command=["data.path=my text.txt", "data=text_file"],
        labels={"variant": "this", "64": "1.789 ± 0.024"},
    )
    merged = merge_rows([other, same], [new])
    assert merged[0] == other
    assert merged[1].runs == new.runs
    assert (merged[1].chosen, merged[1].transcribed, merged[1].labels) == (True, False, {"variant": "this"})
    assert merge_rows(merged, [new]) == merged
    fourth = new.model_copy(update={"runs": [new.runs[1].model_copy(update={"seed": 4})]})
    assert merge_rows(merged, [fourth])[1].seeds == [1, 2, 3, 4], "a later seed is added"
    assert merge_rows([other], [new]) == [other, new]


def test_a_command_that_says_more_than_what_to_train_is_not_recorded(three_seeds: Path) -> None:
    for folder in three_seeds.iterdir():
        (folder / "overrides.json").write_text('["hydra.run.dir=/tmp"]')
    with pytest.raises(FolioError, match="its command cannot be published"):
        records_of(three_seeds)


# Tables and plots


def test_a_table_shows_metrics_labels_and_keys_of_the_config(three_seeds: Path) -> None:
    rows = records_of(three_seeds, variant="a|b")
    columns = ["variant", "tokenizer", "d_model", "validation loss, nats", "at step 20", "lowest validation loss, nats"]
    assert table(Study(rows=rows), [*columns, "time"]).splitlines()[2] == (
        r"| a\|b | char | 8 | 2.100 ± 0.100 | 2.500 | 2.100 ± 0.100 | 12 s |"
    )
    by_seed = table(Study(rows=rows), ["seed", "validation loss, nats", "at step 20"]).splitlines()[2:]
    assert by_seed == ["| 1 | 2.000 | 2.500 |", "| 2 | 2.100 | 2.500 |", "| 3 | 2.200 | 2.500 |"]


def test_what_is_transcribed_is_marked_and_what_is_chosen_is_bold(three_seeds: Path) -> None:
    stated = {"bits per byte": "2.360; the others have 2.333 there", "variant": "old"}
    old = Record(transcribed=True, chosen=True, labels=stated)
    (new,) = records_of(three_seeds, variant="new")
    lines = table(Study(rows=[old, new]), ["variant", "bits per byte"]).splitlines()
    assert lines[2] == "| **old** † | **2.360; the others have 2.333 there** |"
    assert lines[3].startswith("| new | 3.0")
    assert table(Study(rows=[old]), ["variant"]).splitlines()[2:] == ["| **old** |", "", "† Transcribed."]


def test_a_measured_row_cannot_state_a_figure_instead(three_seeds: Path) -> None:
    (row,) = records_of(three_seeds, **{"validation loss, nats": "1.000"})
    assert "1.000" not in table(Study(rows=[row]), ["validation loss, nats"])
    with pytest.raises(ValueError, match="only a transcribed row may state"):
        Record.model_validate(row.model_dump() | {"stated": {"val/loss_nats": {"n": 3, "mean": 1.0}}})


def test_a_page_is_written_again_between_its_markers_alone(three_seeds: Path, tmp_path: Path) -> None:
    write_study(tmp_path / "results" / "records" / "mine.json", Study(rows=records_of(three_seeds, variant="x")))
    page = tmp_path / "page.md"
    table_marker, plot_marker = "<!-- records: mine | variant -->", "<!-- plot: mine | curves | Loss -->"
    page.write_text(f"Text.\n{table_marker}\nold\n<!-- end -->\n{plot_marker}\n<!-- end -->\n")
    text, plots = render_page(page, tmp_path / "results" / "records")
    assert text == (
        "Text.\n<!-- records: mine | variant -->\n\n| variant |\n|---|\n| x |\n\n<!-- end -->\n"
        "<!-- plot: mine | curves | Loss -->\n\n![Loss](results/mine_curves.png)\n\n<!-- end -->\n"
    )
    page.write_text(text)
    assert render_page(page, tmp_path / "results" / "records")[0] == text
    assert list(plots) == ["results/mine_curves.png"]


@pytest.mark.parametrize(
    ("marker", "problem"),
    [
        ("records: absent | variant", "absent.json does not exist"),
        ("plot: mine | bars | Loss", "needs results, curves, scaling, rates"),
        ("plot: mine | curves", "needs results, curves, scaling, rates"),
        ("records: mine | variant -->\n\nText.\n\n<!-- records: mine | variant", "a marker has no <!-- end -->"),
    ],
)
def test_a_wrong_marker_is_refused_in_one_line(marker: str, problem: str, three_seeds: Path, tmp_path: Path) -> None:
    write_study(tmp_path / "mine.json", Study(rows=records_of(three_seeds)))
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {marker} -->\n<!-- end -->")
    with pytest.raises(FolioError, match=problem):
        render_page(page, tmp_path)


def test_every_kind_of_plot_shows_each_seed_and_what_is_only_stated(write_run: WRITE, tmp_path: Path) -> None:
    assert PLOTS.keys() == PLOT_KINDS.keys()
    for width in (8, 16, 32):
        for seed in (1, 2):
            folder = write_run(f"runs/{width}-{seed}", {"seed": seed, "model.d_model": width}, loss=2 - width / 100)
            (folder / "overrides.json").write_text(f'["model.d_model={width}"]')
            (folder / "preflight.json").write_text(json.dumps({"n_parameters_without_embeddings": width**2}))
    measured = records_of(tmp_path / "runs")
    stated = {
        "val/bits_per_byte": {"n": 3, "mean": 2.0, "std": 0.1},
        "n_parameters_without_embeddings": {"n": 3, "mean": 9},
    }
    old = Record.model_validate(
        {"transcribed": True, "labels": {"variant": "old"}, "stated": json.loads(json.dumps(stated))}
    )
    (axes,) = PLOTS["results"](Study(rows=[*measured, old])).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["8 (n=2)", "16 (n=2)", "32 (n=2)", "old (n=3)"]
    (axes,) = PLOTS["scaling"](Study(rows=measured)).axes
    assert len(axes.lines) == 3, "two seeds and the law"
    (axes,) = PLOTS["scaling"](Study(rows=[*measured, old])).axes
    assert len(axes.lines) == 2, "means and the law"
    with pytest.raises(FolioError, match="validated at least twice"):
        PLOTS["curves"](Study(rows=measured))
    with pytest.raises(FolioError, match="two rates of the narrowest"):
        PLOTS["rates"](Study(rows=measured))


# The verdict


@pytest.mark.parametrize(("n", "n_new"), [(2, 1), (3, 1), (3, 3), (5, 2)])
def test_the_rule_finds_95_percent_of_true_repetitions_within_the_spread(n: int, n_new: int) -> None:
    """4,000 draws of record and repetition from one normal distribution: the standard error is 0.35 %."""
    draws = np.random.default_rng(0).normal(2.0, 0.03, (4000, n + n_new))
    within = 0
    for values in draws.tolist():
        old, new = summarize(values[:n]), summarize(values[n:])
        assert old is not None
        assert new is not None
        within += judge(old, new)[0] is True
    assert within / 4000 == pytest.approx(0.95, abs=0.012)


def test_a_margin_by_hand() -> None:
    """t(2) = 4.3027 at 95 %, for one more value after three with standard deviation 0.1."""
    assert Summary(3, 2.0, 0.1).prediction_margin(1) == pytest.approx(4.3027 * 0.1 * (1 + 1 / 3) ** 0.5, rel=1e-4)
    assert Summary(1, 2.0, None).prediction_margin(1) is None
    assert Summary(3, 2.0, 0.0).prediction_margin(1) is None


def repetition(write_run: WRITE, loss: float, changes: dict[str, Any] | None = None) -> Path:
    """A stranger's run of the same text, on another machine."""
    values = {
        "seed": 2,
        "data": {"name": "text_file", "path": "elsewhere.txt"},
        "trainer": {"threads": 8, "precision": "bf16-mixed"},
        "training.validate_every_steps": 7,
    }
    folder = write_run("mine", values | (changes or {}), loss=loss, versions={"torch": "2.14.0"})
    return folder


@pytest.mark.parametrize(("loss", "answer"), [(2.15, True), (2.59, True), (2.61, False), (1.5, False)])
def test_a_repetition_is_within_the_spread_or_not(
    loss: float, answer: bool, three_seeds: Path, write_run: WRITE
) -> None:
    """2.1 ± 4.30 x 0.1 x sqrt(4/3) = 2.1 ± 0.497 nats, divided by ln 2 in bits."""
    study = Study(rows=records_of(three_seeds))
    (verdict,) = compare_with_record(make_report([repetition(write_run, loss)]).groups, study)
    assert verdict.is_within is answer
    assert verdict.command == study.rows[0].repeat_command()
    text = "\n".join(verdict_lines([verdict]))
    assert text.startswith(f"\n{RULE}")
    assert f"against the same seed: seed 2 {(loss - 2.1) / np.log(2):+.4f}" in text
    assert "trainer.precision: 32-true in the record, bf16-mixed here" in text
    assert "torch: 2.13.0 in the record, 2.14.0 here" in text


def test_one_recorded_seed_gives_no_verdict(three_seeds: Path, write_run: WRITE) -> None:
    study = Study(rows=records_of(three_seeds / "1"))
    (verdict,) = compare_with_record(make_report([repetition(write_run, 9.0)]).groups, study)
    assert verdict.is_within is None
    assert verdict.result == "no verdict: the record has one seed, so its spread is unknown"


def test_another_configuration_is_not_judged_and_the_difference_is_named(three_seeds: Path, write_run: WRITE) -> None:
    study = Study(rows=records_of(three_seeds))
    runs = repetition(write_run, 2.1, {"optimizer.learning_rate": 0.5})
    (verdict,) = compare_with_record(make_report([runs]).groups, study)
    assert verdict.is_within is None
    assert "optimizer.learning_rate 0.001 there, 0.5 here" in verdict.reason
    (runs / "preflight.json").write_text(json.dumps({"text_sha256": "1" * 64}))
    (verdict,) = compare_with_record(make_report([runs]).groups, study)
    assert "text_sha256" in verdict.reason


def test_a_transcribed_row_is_found_by_its_command(write_run: WRITE) -> None:
    runs = repetition(write_run, 2.0)
    (runs / "overrides.json").write_text('["experiment=size_ladder", "seed=2", "model.d_model=32"]')
    row = Record.model_validate(
        {
            "transcribed": True,
            "command": ["experiment=size_ladder", "model.d_model=32"],
            "stated": {
                "val/loss_nats": {"n": 3, "mean": 1.869, "std": 0.001},
                "val/bits_per_byte": {"n": 3, "mean": 2.696},  # without a spread, so it decides nothing
            },
        }
    )
    study = Study(rows=[Record(transcribed=True, labels={"what": "x"}), row])
    assert find_row(study.rows, {}, None) is None
    (verdict,) = compare_with_record(make_report([runs]).groups, study)
    assert verdict.is_within is False
    assert verdict.recorded == "1.8690 ± 0.0010 (n = 3) validation loss, nats"


# Files from elsewhere


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "is no record (rows: Field required)"),
        ('{"format": 2, "rows": []}', "is no record (format:"),
        ('{"rows": [{"seeds": [1]}]}', "is no record (rows.0"),
        (
            '{"rows": [{"runs": [{"seed": 1, "metrics": {"val/loss_nats": NaN}}]}]}',
            "is no record (rows.0.runs.0.metrics",
        ),
        ('{"rows": [{"transcribed": false}]}', "needs command, config and runs"),
        ('{"rows": [{"transcribed": true, "_target_": "os.system"}]}', "is no record (rows.0._target_"),
    ],
)
def test_a_file_that_is_no_record_is_refused_in_one_line(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UntrustedFileError) as refusal:
        read_study(tmp_path / "x.json")
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_command_from_elsewhere_is_printed_only_if_it_says_what_to_train() -> None:
    row = Record(transcribed=True, command=["experiment=size_ladder", "hydra.run.dir=$(rm -rf /)"])
    assert row.repeat_command() == ""


def test_the_name_of_a_record_is_looked_up_and_a_wrong_one_answered() -> None:
    assert study_path("ladder") == RECORDS / "ladder.json"
    assert read_study(study_path("ladder")).rows[0].repeat_command() == (
        "python train.py -m experiment=size_ladder model.d_model=32 seed=1,2,3"
    )
    with pytest.raises(FolioError, match=r"laddr: there is no such record; did you mean ladder\?"):
        study_path("laddr")
