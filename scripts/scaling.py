"""Fit how the loss falls with size, tokens or compute: python scripts/scaling.py outputs/multirun/<date>/<time>"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import statistics
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.scripts import run_script
from folio.report import Report, make_report, output_console
from folio.report.joint_law import HEADINGS, JointFit, fit_joint_law, points_of_report
from folio.report.metrics import format_mean_std
from folio.report.rate_transfer import compare_rates
from folio.report.scaling import fit_scaling
from folio.report.tables import to_csv, to_markdown_table, to_rich_table
from folio.report.text import fixed_point
from folio.report.writing import output_folder, to_png, write_files


class Along(StrEnum):
    PARAMETERS = "parameters"
    TOKENS = "tokens"
    COMPUTE = "compute"
    BOTH = "both"
    LEARNING_RATE = "learning_rate"


def main(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Run folders, sweeps, or folders that contain some.")
    ],
    along: Annotated[
        Along,
        typer.Option(
            help="Quantity that the loss is fitted over; both: parameters and tokens together; learning_rate: the best "
            "one of each width, for each model.parametrization."
        ),
    ] = Along.PARAMETERS,
    output: Annotated[Path | None, typer.Option(help="Folder for the files; by default the first FOLDER.")] = None,
) -> None:
    """Fit loss = factor * x^-exponent to finished runs, with the standard deviation of the exponent over seeds.

    With both, the loss is a sum of two such powers, of parameters and of tokens, from which scripts/plan.py suggests a
    size and a number of steps. Writes scaling_<along>.csv and .md, and .png except for both.
    """
    output = output_folder(output, folders)
    report = make_report(folders)
    if along is Along.BOTH:
        fit_both(report, output)
        return
    if along is Along.LEARNING_RATE:
        show_rates(report, output)
        return
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


def fit_both(report: Report, output: Path) -> None:
    """Fit a law of size and tokens, print it, and write its points and a table. Raises: FolioError."""
    fit = fit_joint_law(points_of_report(report))
    metric = report.primary.metric
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    headings = ["parameters", "tokens", "seed", f"validation {report.primary.title}", "fitted"]
    rows = [
        [f"{size:,.0f}", f"{tokens:,.0f}", seed, f"{loss:.4f}", f"{fit.law(size, tokens):.4f}"]
        for seed, size, tokens, loss in fit.points
    ]
    sentence = f"loss = {fit.law}; runs differ from the law by {spread_of(fit):.1%} (standard deviation)"
    files = {
        "scaling_both.csv": to_csv([[*HEADINGS, metric], *fit.points]).encode(),
        "scaling_both.md": f"{to_markdown_table(headings, rows)}\n\n{sentence}.\n".encode(),
    }
    output_console().print(to_rich_table(report.title, headings, rows))
    print(sentence, *write_files(output, files), sep="\n")


def show_rates(report: Report, output: Path) -> None:
    """Print, draw and write the loss by learning rate and width. Raises: FolioError."""
    transfer = compare_rates(report)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)

    from folio.report.plots import plot_rates

    headings, rows = transfer.table()
    sentences = []
    for parametrization in transfer.sweeps:
        laws = zip(
            ("at the rate of the narrowest", "each at its best rate"), transfer.laws(parametrization), strict=True
        )
        exponents = (f"{law.exponent:.4f} {where}" for where, law in laws if law is not None)
        sentences.append(f"{parametrization}: exponent of parameters {', '.join(exponents) or 'unknown'}")
    files = {
        "scaling_learning_rate.csv": to_csv(transfer.csv_rows()).encode(),
        "scaling_learning_rate.md": f"{to_markdown_table(headings, rows)}\n\n{'; '.join(sentences)}.\n".encode(),
        "scaling_learning_rate.png": to_png(plot_rates(transfer)),
    }
    output_console().print(to_rich_table(report.title, headings, rows))
    print(*sentences, *write_files(output, files), sep="\n")


def spread_of(fit: JointFit) -> float:
    """Return the standard deviation of runs around the law, relative to the loss."""
    return statistics.pstdev(fit.residuals.tolist(), mu=0.0)


if __name__ == "__main__":
    run_script(main)
