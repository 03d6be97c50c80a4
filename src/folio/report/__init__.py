"""Turn run folders into a report: a page, tables and plots. Imports no torch, and matplotlib only to draw.

reading.py reads the runs, grouping.py groups them into configurations, comparison.py tests their differences, and
report.py puts the results together. tables.py, page.py and plots.py show them, and writing.py writes the files.
scaling.py and extrapolation.py are studies of the same runs.
"""

from pathlib import Path

from folio.report.report import Report, make_report
from folio.report.tables import output_console, print_report
from folio.report.writing import write_report

__all__ = ["Report", "make_report", "output_console", "print_report", "report_sweep", "write_report"]


def report_sweep(folder: Path) -> None:
    """Print the table of a sweep, and write its report into its folder. Raises: FolioError, OSError."""
    console = output_console()
    report = make_report([folder], command=["python", "scripts/report.py", str(folder)])
    print_report(report, console)
    write_report(report, folder)
    console.print(f"report           {folder / 'report.html'}", markup=False, soft_wrap=True)
