"""The part `prepare` of the benchmark: all contenders encode the same documents."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.contenders.selection import choose_peers
from benchmarks.options import Options
from benchmarks.parts import preparation
from benchmarks.report.results import BenchmarkReport
from folio.config.run import RunConfig


def test_share_compares_with_one_thread_times_the_processors(
    data_dir: Path, compose: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "N_COPIES", 1)
    monkeypatch.setattr(preparation, "TOKENIZER", "byte")
    monkeypatch.setattr(preparation, "available_cpus", lambda: 2)
    options = Options(
        rounds=2,
        peers=choose_peers("bare", None),
        compose=lambda overrides: compose(*overrides, f"paths.data_dir={data_dir}"),
        say=lambda text: None,
    )
    report = BenchmarkReport({})
    preparation.measure_preparation(options, report)
    assert [len(series.values) for series in report.series] == [2] * 5
    text_files, all_threads, one_thread, text_file, all_threads_again = report.series
    shares = [ours / (2 * other) for ours, other in zip(text_files.values, one_thread.values, strict=True)]
    assert text_files.facts["share"] == pytest.approx(sum(shares) / 2)
    assert "1 MB in 400 documents, byte" in text_files.subject
    assert "1 MB in one text, byte" in text_file.subject
    assert all_threads_again.values == all_threads.values
    assert len(json.loads(report.to_json())["comparisons"]) == 3


def test_documents_are_all_different() -> None:
    documents = list(preparation.split_documents([f"line {number % 7}" for number in range(1000)]))
    assert len(set(documents)) == len(documents) == 10 * preparation.N_COPIES
