"""Run folders made into a report: a page, tables and pictures. Imports no torch, and matplotlib to draw alone."""

from pathlib import Path

from folio.report.report import Report, make_report
from folio.report.tables import print_report, terminal
from folio.report.write import write_report

__all__ = ["Report", "make_report", "print_report", "report_sweep", "terminal", "write_report"]


def report_sweep(folder: Path) -> None:
    """Print the table of a sweep, and write its report into its folder. Raises: FolioError, OSError."""
    console = terminal()
    report = make_report([folder], command=["python", "scripts/report.py", str(folder)])
    print_report(report, console)
    write_report(report, folder)
    console.print(f"report           {folder / 'report.html'}", markup=False, soft_wrap=True)
