"""Compare runs: python scripts/report.py outputs/multirun/<date>/<time> --group-by optimizer"""

from folio.runtime.signals import exit_on_signals

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

import sys
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.scripts import run_script
from folio.report import make_report, print_report, terminal, write_report
from folio.runtime.errors import FolioError


def main(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Run folders, sweeps, or folders that hold some.")
    ],
    group_by: Annotated[
        str | None, typer.Option(metavar="KEY", help="A config key that colours the curves, as optimizer.name.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report; FOLDER itself, where that is one.")
    ] = None,
) -> None:
    """One page that needs no network, with tables as CSV and Markdown and pictures as PNG.

    What differed between the runs and what it did to their figures, with mean and spread over seeds; their curves and
    samples side by side; what failed, and why; and the commands that repeat it.
    """
    if output is None and len(folders) > 1:
        raise FolioError(f"--output is missing: with {len(folders)} folders, say where the report goes: --output DIR")
    if "" in folders:
        raise FolioError("FOLDER= is empty; name a run folder, a sweep, or a folder that holds some")
    places = [Path(folder) for folder in folders]
    report = make_report(places, group_by, command=["python", "scripts/report.py", *sys.argv[1:]])
    written = write_report(report, output or places[0])
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_report(report, terminal())
    print(*written, sep="\n")


if __name__ == "__main__":
    run_script(main)
