"""Files of figures: report.html, report.csv, report_configurations.csv, report.md and its pictures; of a study."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from folio.report.page import html_page
from folio.report.report import Report
from folio.report.tables import groups_csv, markdown, runs_csv
from folio.runtime.errors import FolioError
from folio.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write all files into the folder, each whole or not at all; returns their paths. Raises: FolioError, OSError."""
    # Drawn before anything is written. matplotlib takes a second to import.
    from folio.report.plots import pictures

    drawn = {name: png(figure) for name, figure in pictures(report).items()}
    files = {
        "report.html": html_page(report, drawn).encode(),
        "report.csv": runs_csv(report).encode(),
        "report_configurations.csv": groups_csv(report).encode(),
        "report.md": markdown(report, list(drawn)).encode(),
        **drawn,
    }
    return write_files(folder, files)


def write_files(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Make the folder and write them into it. Raises: FolioError, OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolioError(f"--output={folder}: cannot make that folder ({error.strerror}); name another") from None
    return list(_write(folder, files))


def png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _write(folder: Path, files: dict[str, bytes]) -> Iterator[Path]:
    for name, content in files.items():
        write_atomically(folder / name, content)
        yield folder / name
