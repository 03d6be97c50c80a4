"""Measure runs with windows of other lengths: python scripts/extrapolate.py outputs/multirun/<date>/<time>"""

from folio.runtime.signals import exit_on_signals

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.corpus import check_data, data_of
from folio.cli.scripts import run_script
from folio.config.checks import with_context_length
from folio.generation.prompts import last_position
from folio.report import Report, make_report, terminal
from folio.report.extrapolation import CSV_HEADINGS, Measured, csv_rows, table
from folio.report.groups import Group
from folio.report.reading import ReportedRun
from folio.report.tables import csv_of, markdown_table, rich_table
from folio.report.write import png, write_files
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError


def main(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run folders, sweeps, or folders that hold some.")
    ],
    context_lengths: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Tokens in a window; once, twice and four times training's, if none."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Which one of each run: best, last or step=N.")] = "best",
    output: Annotated[Path | None, typer.Option(help="Folder for the files; the first FOLDER, if none.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Prepared data, if not where training had it.")] = None,
) -> None:
    """The validation loss of finished runs with windows of several lengths, mean and deviation over seeds.

    Writes extrapolation.csv, .md and .png.
    """
    lengths = None if context_lengths is None else numbers_in(context_lengths)
    report = make_report(folders)
    if not any(group.counted for group in report.groups):
        raise FolioError("no run here has finished; give finished ones")
    measured = list(measure_all(report, lengths, checkpoint, data_dir))

    from folio.report.study_plots import extrapolation_figure

    headings, rows = table(measured)
    files = {
        "extrapolation.csv": csv_of([CSV_HEADINGS, *csv_rows(measured)]).encode(),
        "extrapolation.md": f"{markdown_table(headings, rows)}\n".encode(),
        "extrapolation.png": png(extrapolation_figure(measured)),
    }
    terminal().print(rich_table(f"{report.title}: validation loss in nats per token", headings, rows))
    print(*write_files(output or folders[0], files), sep="\n")


def numbers_in(text: str) -> list[int]:
    """Raises: FolioError."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and len(word) < 10 and int(word) > 0 for word in words):
        raise FolioError(f"--context-lengths={text} must be whole numbers above 0 with commas between: 64,128,256")
    return sorted({int(word) for word in words})


def measure_all(
    report: Report, lengths: list[int] | None, checkpoint: str, data_dir: Path | None
) -> Iterator[Measured]:
    runs = [(group, run) for group in report.groups for run in group.counted]
    for number, (group, run) in enumerate(runs, start=1):
        print(f"{number} of {len(runs)}: {run.name}", flush=True)
        yield from measure_run(group, run, lengths, checkpoint, data_dir)


def measure_run(
    group: Group, run: ReportedRun, lengths: list[int] | None, checkpoint: str, data_dir: Path | None
) -> Iterator[Measured]:
    """Raises: FolioError where the run has no such checkpoint, or its model reads no longer windows at all."""
    path = find_checkpoint(str(run.folder), run.folder, checkpoint)

    from folio.distributed.devices import resolve_device
    from folio.objectives.evaluation import evaluate
    from folio.objectives.objective import build_objective
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, "cpu")
    device = resolve_device(trained.config.trainer)
    data = data_of(trained, data_dir)
    model = trained.model.to(device.torch_device)
    trained_with, longest = trained.config.model.context_length, last_position(trained.model.config)
    for length in lengths or [trained_with, 2 * trained_with, 4 * trained_with]:
        metrics = {}
        if longest is None or length <= longest:
            config = with_context_length(trained.config, length)
            check_data(config, data)
            with device.autocast():
                validation = build_objective(config, data).validation(data.val)
                metrics = evaluate(model, validation, device.torch_device)
        yield Measured(
            group, run.name, str(run.seed), trained_with, length, metrics.get("loss_nats"), metrics.get("bits_per_byte")
        )


if __name__ == "__main__":
    run_script(main)
