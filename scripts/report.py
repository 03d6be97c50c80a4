"""Compare runs: python scripts/report.py outputs/multirun/<date>/<time> --group-by optimizer"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import sys
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.scripts import run_script
from folio.report import make_report, output_console, print_report, write_report
from folio.report.against import compare_with_record, verdict_lines
from folio.report.records import read_study, study_path
from folio.report.writing import output_folder
from folio.runtime.errors import FolioError
from folio.runtime.files import expand_home


def main(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Run folders, sweeps, or folders that contain some.")
    ],
    group_by: Annotated[
        str | None, typer.Option(metavar="KEY", help="Config key that colors the curves, such as optimizer.name.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Only runs with this tag; give it again for others too.")
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Also show figures of the test split, from scripts/evaluate.py --split test.")
    ] = False,
    against: Annotated[
        str | None, typer.Option(metavar="RECORD", help="Table of docs/results.md, or a file of docs/results/records/.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report; by default FOLDER, if there is only one.")
    ] = None,
) -> None:
    """Write a report of runs: one page that needs no network, tables as CSV and Markdown, and plots as PNG.

    It shows how the configurations differ and how their results compare, with mean and standard deviation over seeds;
    curves and samples side by side; the runs that failed, and why; and the commands that repeat everything.

    With --against, say for each configuration whether its result is within the spread of the published one. The exit
    code is then 1 if one is not.
    """
    if output is None and len(folders) > 1:
        raise FolioError(f"--output is missing: with {len(folders)} folders, name a folder for the report")
    if "" in folders:
        raise FolioError("FOLDER= is empty; give a run folder, a sweep, or a folder that contains some")
    paths = [Path(expand_home(folder)) for folder in folders]
    study = None if against is None else read_study(study_path(against))
    output = output_folder(output, paths)
    report = make_report(paths, group_by, tag or [], ["python", "scripts/report.py", *sys.argv[1:]], test)
    written = write_report(report, output)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_report(report, output_console())
    print(*written, sep="\n")
    if study is not None:
        verdicts = compare_with_record(report.groups, study)
        output_console().print(*verdict_lines(verdicts), sep="\n", markup=False, highlight=False, soft_wrap=True)
        if any(verdict.is_within is False for verdict in verdicts):
            raise typer.Exit(1)


if __name__ == "__main__":
    run_script(main)
