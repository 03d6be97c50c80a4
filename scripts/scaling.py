"""How the loss falls with size, tokens or compute: python scripts/scaling.py outputs/multirun/<date>/<time>"""

from folio.runtime.signals import exit_on_signals

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.scripts import run_script
from folio.report import make_report, terminal
from folio.report.columns import decimals, with_spread
from folio.report.scaling import scaling_of
from folio.report.tables import csv_of, markdown_table, rich_table
from folio.report.write import png, write_files


class Along(StrEnum):
    PARAMETERS = "parameters"
    TOKENS = "tokens"
    COMPUTE = "compute"


def main(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run folders, sweeps, or folders that hold some.")
    ],
    along: Annotated[Along, typer.Option(help="What the loss is drawn over.")] = Along.PARAMETERS,
    output: Annotated[Path | None, typer.Option(help="Folder for the files; the first FOLDER, if none.")] = None,
) -> None:
    """Fit loss = factor * x^-exponent through finished runs, with the exponent's spread over seeds.

    Writes scaling_<along>.csv, .md and .png.
    """
    report = make_report(folders)
    scaling = scaling_of(report, along)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)

    from folio.report.study_plots import scaling_figure

    headings = [scaling.quantity.title, "n", f"validation {scaling.figure.title}", "the law"]
    rows = [
        [f"{x:,.4g}" if x >= 1e9 else f"{x:,.0f}", str(summary.n), with_spread(summary, decimals(4)), f"{law:.4f}"]
        for x, summary, law in scaling.rows
    ]
    sentence = (
        f"loss = {scaling.law.factor:.4g} * x^-{scaling.law.exponent:.4f}; exponent over seeds "
        f"{with_spread(scaling.exponents, decimals(4))}; means lie up to {scaling.worst:.1%} off the law"
    )
    points = [[seed, *point, scaling.law(point[0])] for seed, found in scaling.points.items() for point in found]
    files = {
        f"scaling_{along}.csv": csv_of([["seed", along.value, scaling.figure.metric, "law"], *points]).encode(),
        f"scaling_{along}.md": f"{markdown_table(headings, rows)}\n\n{sentence}.\n".encode(),
        f"scaling_{along}.png": png(scaling_figure(scaling)),
    }
    terminal().print(rich_table(report.title, headings, rows))
    print(sentence, *write_files(output or folders[0], files), sep="\n")


if __name__ == "__main__":
    run_script(main)
