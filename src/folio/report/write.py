"""The files of a report: report.html, report.csv, report_configurations.csv, report.md and its pictures."""

import io
from collections.abc import Iterator
from pathlib import Path

from folio.errors import FolioError
from folio.files import write_atomically
from folio.report.page import html_page
from folio.report.report import Report
from folio.report.tables import groups_csv, markdown, runs_csv


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write all files into the folder, each whole or not at all; returns their paths. Raises: FolioError, OSError."""
    # Drawn before anything is written. matplotlib takes a second to import.
    from folio.report.plots import pictures

    drawn = {}
    for name, figure in pictures(report).items():
        content = io.BytesIO()
        figure.savefig(content, format="png")
        drawn[name] = content.getvalue()
    files = {
        "report.html": html_page(report, drawn).encode(),
        "report.csv": runs_csv(report).encode(),
        "report_configurations.csv": groups_csv(report).encode(),
        "report.md": markdown(report, list(drawn)).encode(),
        **drawn,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolioError(f"--output={folder}: cannot make that folder ({error.strerror}); name another") from None
    return list(_write(folder, files))


def _write(folder: Path, files: dict[str, bytes]) -> Iterator[Path]:
    for name, content in files.items():
        write_atomically(folder / name, content)
        yield folder / name
