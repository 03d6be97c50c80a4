"""Evaluate runs with other window lengths: python scripts/extrapolate.py outputs/multirun/<date>/<time>"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.corpus import check_data, reopen_data
from folio.cli.scripts import run_script
from folio.config.updates import with_context_length
from folio.report import Report, make_report, output_console
from folio.report.extrapolation import CSV_HEADINGS, Measurement, csv_rows, extrapolation_table
from folio.report.grouping import Group
from folio.report.reading import ReportedRun
from folio.report.tables import to_csv, to_markdown_table, to_rich_table
from folio.report.writing import output_folder, to_png, write_files
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError


def main(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run folders, sweeps, or folders that contain some.")
    ],
    context_lengths: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Tokens in a window; by default 1, 2 and 4 times those of training."),
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint of each run: best, last, epoch=N or step=N.")] = "best",
    output: Annotated[Path | None, typer.Option(help="Folder for the files; by default the first FOLDER.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of prepared data; by default this checkout's.")] = None,
) -> None:
    """Evaluate finished runs with several window lengths: validation loss, mean ± standard deviation over seeds.

    Writes extrapolation.csv, .md and .png.
    """
    lengths = None if context_lengths is None else parse_lengths(context_lengths)
    output = output_folder(output, folders)
    report = make_report(folders)
    if not any(group.averaged for group in report.groups):
        raise FolioError("none of these runs has finished; give finished runs")
    for run in (run for group in report.groups for run in group.averaged):
        check_run(run, lengths, checkpoint)
    measurements = list(measure_all(report, lengths, checkpoint, data_dir))

    from folio.report.plots import plot_extrapolation

    headings, rows = extrapolation_table(measurements)
    files = {
        "extrapolation.csv": to_csv([CSV_HEADINGS, *csv_rows(measurements)]).encode(),
        "extrapolation.md": f"{to_markdown_table(headings, rows)}\n".encode(),
        "extrapolation.png": to_png(plot_extrapolation(measurements)),
    }
    output_console().print(to_rich_table(f"{report.title}: validation loss in nats per token", headings, rows))
    print(*write_files(output, files), sep="\n")


def parse_lengths(text: str) -> list[int]:
    """Return the lengths, sorted. Raises: FolioError."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and len(word) < 10 and int(word) > 0 for word in words):
        raise FolioError(f"--context-lengths={text} must be integers above 0, separated by commas: 64,128,256")
    return sorted({int(word) for word in words})


def check_run(run: ReportedRun, lengths: list[int] | None, checkpoint: str) -> None:
    """Check what can be checked of a run before the first one is measured. Raises: FolioError."""
    config = config_beside(find_checkpoint(str(run.folder), run.folder, checkpoint))
    if config is not None:
        for length in lengths or [1]:
            if config.positional_encoding.name != "learned":  # longer windows than those learned are left out
                with_context_length(config, length)


def measure_all(
    report: Report, lengths: list[int] | None, checkpoint: str, data_dir: Path | None
) -> Iterator[Measurement]:
    runs = [(group, run) for group in report.groups for run in group.averaged]
    for number, (group, run) in enumerate(runs, start=1):
        print(f"{number} of {len(runs)}: {run.name}", flush=True)
        yield from measure_run(group, run, lengths, checkpoint, data_dir)


def measure_run(
    group: Group, run: ReportedRun, lengths: list[int] | None, checkpoint: str, data_dir: Path | None
) -> Iterator[Measurement]:
    """Evaluate a run with each length. Raises: FolioError if the run has no such checkpoint."""
    path = find_checkpoint(str(run.folder), run.folder, checkpoint)

    from folio.distributed.devices import resolve_device
    from folio.objectives.evaluation import evaluate
    from folio.objectives.objective import build_objective
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, "cpu")
    device = resolve_device(trained.config.trainer)
    data = reopen_data(trained, data_dir)
    model = trained.model.to(device.torch_device)
    trained_with, longest = trained.config.model.context_length, trained.model.config.max_positions
    for length in lengths or [trained_with, 2 * trained_with, 4 * trained_with]:
        metrics = {}
        if longest is None or length <= longest:
            config = with_context_length(trained.config, length)
            check_data(config, data)
            with device.autocast():
                validation = build_objective(config, data).validation(data.val)
                metrics = evaluate(model, validation, device.torch_device)
        yield Measurement(
            group, run.name, str(run.seed), trained_with, length, metrics.get("loss_nats"), metrics.get("bits_per_byte")
        )


if __name__ == "__main__":
    run_script(main)
