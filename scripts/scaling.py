"""Fit how the loss falls with size, tokens or compute: python scripts/scaling.py outputs/multirun/<date>/<time>"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.scripts import run_script
from folio.report import make_report, output_console
from folio.report.metrics import format_mean_std
from folio.report.scaling import fit_scaling
from folio.report.tables import to_csv, to_markdown_table, to_rich_table
from folio.report.text import fixed_point
from folio.report.writing import output_folder, to_png, write_files


class Along(StrEnum):
    PARAMETERS = "parameters"
    TOKENS = "tokens"
    COMPUTE = "compute"


def main(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run folders, sweeps, or folders that contain some.")
    ],
    along: Annotated[Along, typer.Option(help="Quantity that the loss is fitted over.")] = Along.PARAMETERS,
    output: Annotated[Path | None, typer.Option(help="Folder for the files; by default the first FOLDER.")] = None,
) -> None:
    """Fit loss = factor * x^-exponent to finished runs, with the standard deviation of the exponent over seeds.

    Writes scaling_<along>.csv, .md and .png.
    """
    output = output_folder(output, folders)
    report = make_report(folders)
    scaling = fit_scaling(report, along)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)

    from folio.report.plots import plot_scaling

    headings = [scaling.quantity.title, "n", f"validation {scaling.primary.title}", "fitted loss"]
    rows = [
        [
            f"{x:,.4g}" if x >= 1e9 else f"{x:,.0f}",
            str(summary.n),
            format_mean_std(summary, fixed_point(4)),
            f"{fitted:.4f}",
        ]
        for x, summary, fitted in scaling.rows
    ]
    sentence = (
        f"loss = {scaling.law.factor:.4g} * x^-{scaling.law.exponent:.4f}; exponent over seeds "
        f"{format_mean_std(scaling.exponents, fixed_point(4))}; "
        f"means differ from the law by up to {scaling.max_relative_error:.1%}"
    )
    points = [[seed, *point, scaling.law(point[0])] for seed, found in scaling.points.items() for point in found]
    files = {
        f"scaling_{along}.csv": to_csv([["seed", along.value, scaling.primary.metric, "law"], *points]).encode(),
        f"scaling_{along}.md": f"{to_markdown_table(headings, rows)}\n\n{sentence}.\n".encode(),
        f"scaling_{along}.png": to_png(plot_scaling(scaling)),
    }
    output_console().print(to_rich_table(report.title, headings, rows))
    print(sentence, *write_files(output, files), sep="\n")


if __name__ == "__main__":
    run_script(main)
