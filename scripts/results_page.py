"""Make the tables and plots of docs/results.md from its records: python scripts/results_page.py [--check]"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

from pathlib import Path
from typing import Annotated

import typer

from folio.cli.scripts import run_script
from folio.report.records import RECORDS
from folio.report.records_page import DIGEST, digest_in, render_page
from folio.report.writing import to_png
from folio.runtime.errors import FolioError
from folio.runtime.files import write_atomically
from folio.runtime.untrusted import read_text

PAGE = RECORDS.parents[1] / "results.md"


def main(
    page: Annotated[Path, typer.Option(help="Page with markers of records.")] = PAGE,
    records: Annotated[Path, typer.Option(help="Folder of the records; plots are written beside it.")] = RECORDS,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the page and its plots are up to date.")
    ] = False,
) -> None:
    """Write each table of a page that a marker comment names, and draw its plots, from docs/results/records/."""
    text, plots = render_page(page, records)
    stale = [image for image, plot in plots.items() if digest_in(page.parent / image) != plot.digest]
    stale_page = text != read_text(page)
    if check:
        if stale_page or stale:
            names = ", ".join([page.name] * stale_page + stale)
            raise FolioError(f"{names}: not what the records say; run python scripts/results_page.py")
        print(f"{page.name} and {len(plots)} plots are what the records say")
        return
    for image in stale:
        write_atomically(page.parent / image, to_png(plots[image].draw(), {DIGEST: plots[image].digest}))
        print(page.parent / image)
    if stale_page:
        write_atomically(page, text.encode())
        print(page)


if __name__ == "__main__":
    run_script(main)
