"""Record finished runs as rows of a published table: python scripts/record.py outputs/multirun/<...> --study ladder"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import sys
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.scripts import run_script
from folio.report import make_report, output_console
from folio.report.metrics import format_mean_std
from folio.report.records import RECORDS, Study, merge_rows, read_study, record_group, study_path, write_study
from folio.report.tables import to_rich_table
from folio.report.text import ABSENT, fixed_point, join_names
from folio.runtime.errors import FolioError


def main(
    study: Annotated[str, typer.Option(metavar="NAME", help="Table of docs/results.md, or a path that ends in .json.")],
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Run folders, or sweeps; none: show the rows.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="HEADING=TEXT", help="Text of a column that no run has; repeatable.")
    ] = None,
) -> None:
    """Add the finished runs of FOLDER to the record of a study, and show each row with the command that repeats it.

    Runs of one configuration are one row, with all their seeds. A row of the same configuration is replaced. Afterwards
    `python scripts/results_page.py` writes the tables and plots of docs/results.md.
    """
    labels = dict(_parse_label(text) for text in label or [])
    if folders:
        path = Path(study) if study.endswith(".json") else RECORDS / f"{study}.json"
        rows = read_study(path).rows if path.is_file() else []
        report = make_report(folders)
        groups = [group for group in report.groups if group.averaged]
        if not groups:
            raise FolioError(f"{folders[0]}: no run has finished, and only finished ones are recorded")
        if report.unfinished:
            print(
                f"warning: unfinished, and left out: {join_names([r.name for r in report.unfinished])}", file=sys.stderr
            )
        recorded = [run for group in groups for run in group.averaged]
        dirty = [run.name for run in recorded if run.facts.get("git_commit", "-dirty").endswith("-dirty")]
        if dirty:
            print(f"warning: no commit has the code of {join_names(dirty)}: no one can repeat it", file=sys.stderr)
        write_study(path, Study(rows=merge_rows(rows, [record_group(group, labels) for group in groups])))
        print(f"record           {path}")
    _show(read_study(study_path(study)))


def _parse_label(text: str) -> tuple[str, str]:
    heading, sign, value = text.partition("=")
    if not (sign and heading and value):
        raise FolioError(f"--label={text}: give HEADING=TEXT, as in --label 'variant=two threads'")
    return heading, value


def _show(study: Study) -> None:
    rows = []
    for row in study.rows:
        name = ", ".join(row.labels.values()) or " ".join(row.command or [])
        loss, bits = row.summary("val/loss_nats"), row.summary("val/bits_per_byte")
        rows.append(
            [
                f"{'transcribed: ' if row.transcribed else ''}{name}",
                ",".join(map(str, row.seeds)) or ABSENT,
                ABSENT if loss is None else format_mean_std(loss, fixed_point(4)),
                ABSENT if bits is None else format_mean_std(bits, fixed_point(4)),
                row.repeat_command() or ABSENT,
            ]
        )
    headings = ["row", "seeds", "loss (nats)", "bits per byte", "repeat it with"]
    output_console().print(to_rich_table(f"{len(rows)} rows", headings, rows))


if __name__ == "__main__":
    run_script(main)
