"""The GPU part of docs/performance.md, written from the JSON file of a check. Imports no torch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu_day.day import FORMAT
from benchmarks.gpu_day.steps import ROOT
from benchmarks.report.results import BenchmarkReport, parse_report
from benchmarks.report.statistics import format_number
from benchmarks.report.tables import mfu
from folio.report.tables import join_table
from folio.runtime.errors import FolioError
from folio.runtime.files import write_atomically
from folio.runtime.untrusted import read_json_object

PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- Written by scripts/gpu_check.py --publish; do not edit. -->"
END = "<!-- The end of what scripts/gpu_check.py wrote. -->"

AIM_OF_PEAK = 0.5
"""Share of the measured rate of matrix products that a compiled step should reach."""
AIM_OF_GRAPHS = 1
"""Graphs that torch.compile should make for training: all blocks share one."""


def publish(file: Path, page: Path = PAGE) -> Path:
    """Replace the GPU part of the page by what a JSON file says. Raises: FolioError if it is no such file."""
    day = read_json_object(file)
    if day.get("format") != FORMAT or not isinstance(day.get("steps"), list):
        raise FolioError(f"--publish={file} is not a file of scripts/gpu_check.py; name the one of its --output")
    try:
        part = render(day)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise FolioError(f"--publish={file} is damaged ({type(error).__name__}: {error}); measure again") from None
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{page} has no place for the GPU part"
    assert end, f"{page} has no end of the GPU part"
    write_atomically(page, f"{before}{BEGIN}\n\n{part}\n{END}{after}".encode())
    return page


def render(day: dict[str, Any]) -> str:
    """Return the part as Markdown."""
    results = {step["name"]: step["results"] for step in day["steps"] if step["results"]}
    return "\n".join(f"{block}\n" for block in blocks(day, results))


def blocks(day: dict[str, Any], results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield paragraphs and tables."""
    machine = day["machine"]
    software = (
        f"torch {machine['torch']}, Python {machine['python']}, commit {day['git_commit']}, {day['started'][:10]}"
    )
    n_passed = [step["status"] for step in day["steps"]].count("passed")
    passed = f"{n_passed} of {len(day['steps'])} steps passed in {day['seconds'] / 60:.1f} minutes"
    if day["rehearsal"]:
        yield (
            f"**A rehearsal on the CPU** ({machine['cpu']}, {machine['cores']} cores, {software}), with tiny models: "
            f"{passed}. It shows that the check works; its figures say nothing about a GPU."
        )
    else:
        yield f"{machine['gpu']}, {software}: {passed}."
    yield join_table(
        ("step", "", "status", "seconds", "at most"),
        [
            (step["name"], step["title"], step["status"], f"{step['seconds']:.0f}", f"{step['budget_s']:.0f}")
            for step in day["steps"]
        ],
    )
    for name, describe in PARTS.items():
        if name in results:
            yield from describe(results[name])


def describe_tests(results: dict[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{results[name]} {name}" for name in ("passed", "failed", "skipped"))
    yield f"Tests marked `gpu`: {counts}."
    if failed := [name for name, test in results["tests"].items() if test["outcome"] == "failed"]:
        yield "\n".join(f"- failed: `{name}`" for name in failed)


def describe_resume(results: dict[str, Any]) -> Iterator[str]:
    total = results["passed"] + results["failed"]
    yield f"Killed runs that ended in the same bits, in deterministic mode: {results['passed']} of {total}."


def describe_steps(results: dict[str, Any]) -> Iterator[str]:
    report = parse_report(results)
    memory = {series.contender: series for group in report.groups("memory") for series in group}
    rows = []
    for group in report.groups("step"):
        for series in group:
            share = mfu(series, report)
            graphs = series.facts["n_graphs"]
            rows.append(
                (
                    series.subject,
                    series.contender,
                    format_number(series.median),
                    format_number(median(series.facts["tokens_per_s"])),
                    "" if share is None else f"{share:.2f}",
                    f"{memory[series.contender].median:,.0f}" if series.contender in memory else "",
                    str(graphs) if graphs else "",
                    "" if series is group[0] else f"{group[0].advantage_over(series):.2f}",
                )
            )
    if rows:
        share_of_peak = f"share of peak (aim {AIM_OF_PEAK})"
        graphs = f"graphs (aim {AIM_OF_GRAPHS})"
        yield join_table(
            ("workload", "program", "ms/step", "tokens/s", share_of_peak, "peak MiB", graphs, "Folio is faster by"),
            rows,
        )
    yield from describe_overhead(report)


def describe_overhead(report: BenchmarkReport) -> Iterator[str]:
    for folio, *_ in report.groups("overhead"):
        overhead = folio.note.removeprefix("overhead ")
        yield f"Overhead of train.py over a bare loop on workload {folio.subject}: {overhead}."


def describe_generation(results: dict[str, Any]) -> Iterator[str]:
    report = parse_report(results)
    rows = [
        (series.subject, series.contender, format_number(series.median), series.note)
        for group in report.groups("generation")
        for series in group
    ]
    if rows:
        yield join_table(("generation", "program", "tokens/s", ""), rows)


def describe_sharding(results: dict[str, Any]) -> Iterator[str]:
    runs = results["runs"]
    rows = [
        (title, f"{run['val/loss_nats']:.4f}", format_number(run["train/tokens_per_s"]), mebibytes(run))
        for name, title in (("whole", "the whole model"), ("shard", "FSDP2, one shard"))
        if "val/loss_nats" in (run := runs.get(name, {}))
    ]
    if rows:
        yield join_table(("60 steps on one device", "loss, nats", "tokens/s", "peak MiB"), rows)


def mebibytes(run: dict[str, Any]) -> str:
    return f"{run['peak_memory_bytes'] / 2**20:,.0f}" if "peak_memory_bytes" in run else ""


def describe_shakespeare(results: dict[str, Any]) -> Iterator[str]:
    run = results["runs"].get("shakespeare", {})
    if curve := run.get("val_loss_nats"):
        first, last = min(curve, key=int), max(curve, key=int)
        yield (
            f"`experiment=nanogpt_shakespeare_char`: {curve[first]:.3f} nats after {int(first):,} steps, and "
            f"{curve[last]:.3f} after the {int(last):,} that it took in its time."
        )


PARTS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "tests": describe_tests,
    "resume": describe_resume,
    "eager": describe_steps,
    "compiled": describe_steps,
    "generation": describe_generation,
    "sharding": describe_sharding,
    "shakespeare": describe_shakespeare,
}
