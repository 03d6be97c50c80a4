"""Write the files of a report."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from folio.report.page import to_html
from folio.report.report import Report
from folio.report.tables import groups_csv, runs_csv, to_markdown
from folio.runtime.errors import FolioError
from folio.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolioError(f"--output={folder}: cannot make that folder ({error.strerror}); name another") from None
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def to_png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
