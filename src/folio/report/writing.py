"""Write the files of a report."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from folio.report.page import to_html
from folio.report.report import Report
from folio.report.tables import groups_csv, runs_csv, to_markdown
from folio.runtime.files import check_output_folder, make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def output_folder(output: Path | None, folders: Sequence[Path]) -> Path:
    """Return the folder for the files: `output`, or else the first of the folders that are read.

    Raises: FolioError, before the runs are read and measured, if nothing can be written there.
    """
    folder = output or folders[0]
    if output is not None or folder.is_dir():  # reading the runs explains a folder that is none
        check_output_folder(folder, "--output")
    return folder


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.html, report.csv, report_configurations.csv, report.md and the plots, and return their paths.

    Raises: FolioError, OSError.
    """
    from folio.report.plots import report_plots  # imports matplotlib, which takes a second

    # Everything is drawn before anything is written.
    images = {name: to_png(figure) for name, figure in report_plots(report).items()}
    files = {
        "report.html": to_html(report, images).encode(),
        "report.csv": runs_csv(report).encode(),
        "report_configurations.csv": groups_csv(report).encode(),
        "report.md": to_markdown(report, list(images)).encode(),
        **images,
    }
    return write_files(folder, files)


def write_files(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Create the folder, write files into it by name, and return their paths. Raises: FolioError, OSError."""
    with make_folder(folder, "--output"):
        for name, content in files.items():
            write_atomically(folder / name, content)
    return [folder / name for name in files]


def to_png(figure: "Figure", texts: dict[str, str] | None = None) -> bytes:
    """Return a figure as PNG, which holds texts by their names."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata=texts)
    return content.getvalue()
