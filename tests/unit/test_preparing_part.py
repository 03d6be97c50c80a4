"""The part `prepare` of the benchmark encodes the same documents on all sides."""

import json
from pathlib import Path

import pytest

from benchmarks.parts import preparation as preparing
from benchmarks.report.results import Report


def test_the_sides_are_timed_and_the_share_is_of_one_thread_times_the_processors(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "N_COPIES", 1)
    monkeypatch.setattr(preparing, "TOKENIZER", "byte")
    monkeypatch.setattr(preparing, "available_cpus", lambda: 2)
    series = preparing.measure_preparing(2, data_dir, lambda line: None)
    assert [len(side.values) for side in series] == [2] * 5
    folio, all_threads, one, text, beside_text = series
    shares = sorted(mine / (2 * its) for mine, its in zip(folio.values, one.values, strict=True))
    assert folio.facts["share"] == pytest.approx(sum(shares) / 2)
    assert "1 MB in 400 documents, byte" in folio.subject
    assert "1 MB in one text, byte" in text.subject
    assert beside_text.values == all_threads.values
    report = json.loads(Report({}, series).to_json())
    assert len(report["comparisons"]) == 3


def test_no_two_documents_are_alike() -> None:
    documents = list(preparing.documents_of([f"line {number % 7}" for number in range(1000)]))
    assert len(set(documents)) == len(documents) == 10 * preparing.N_COPIES
