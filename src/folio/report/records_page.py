"""Make the tables and plots of a page from records.

A page marks where a table goes, and which columns it has:

    <!-- records: tokenizers | tokenizer | symbols | bits per byte | time -->

and where a plot goes: `results` (every seed, with mean and interval), `curves` (validation loss by step) or `scaling`
(a power law over parameters). What stands between a marker and `<!-- end -->` is written anew.

    <!-- plot: tokenizers | results | Every seed of six tokenizers -->
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from folio.report.records import Record, RecordedRun, Study, read_study
from folio.report.statistics import Summary, summarize
from folio.report.text import fixed_point, format_value
from folio.runtime.errors import FolioError
from folio.runtime.untrusted import read_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKER = re.compile(r"<!-- (records|plot): (.*?) -->\n.*?<!-- end -->", re.DOTALL)

DIGEST = "folio-records"
"""Name of the text in a PNG that says of which data it was drawn."""

TRANSCRIBED = "†"

PLOT_KINDS = {"results": "", "curves": "_curves", "scaling": "", "rates": ""}
"""Suffixes of the name of a study, for the image of each kind."""

LOSS_HEADING = "validation loss, nats"

MEASURED: dict[str, tuple[str, Callable[[float], str], str]] = {
    LOSS_HEADING: ("val/loss_nats", fixed_point(3), ""),
    "bits per byte": ("val/bits_per_byte", fixed_point(3), ""),
    "accuracy": ("val/accuracy", fixed_point(3), ""),
    "training loss, nats": ("train/loss_nats", fixed_point(2), ""),
    "parameters": ("n_parameters", fixed_point(0), ""),
    "without embeddings": ("n_parameters_without_embeddings", fixed_point(0), ""),
    "steps": ("step", fixed_point(0), ""),
    "tokens read": ("n_tokens_seen", fixed_point(0), ""),
    "step of the lowest": ("best/step", fixed_point(0), ""),
    "time": ("elapsed_s", fixed_point(0), " s"),
    "tokens/s": ("train/tokens_per_s", fixed_point(0), ""),
    "MFU": ("mfu", fixed_point(2), ""),
    "energy": ("energy_j", fixed_point(0), " J"),
}
"""Metric, format and unit of a column by its heading."""

AT_STEP = re.compile(r"(?:(.+) )?at step ([\d,]+)")
"""Heading of a column that shows a metric, or the loss, of the validation at a step."""

LOWEST = "lowest "
"""Beginning of the heading of a column that shows the lowest value of all validations."""


# Page


def render_page(page: Path, records: Path) -> tuple[str, dict[str, "PlotData"]]:
    """Return the text of a page with its tables made again, and the data of its plots by the path of the image.

    Raises: FolioError for a marker that cannot be followed.
    """
    plots: dict[str, PlotData] = {}

    def replace(match: re.Match[str]) -> str:
        name, *words = (word.strip() for word in match[2].split("|"))
        file = records / f"{name}.json"
        if not file.is_file():
            raise FolioError(f"{page}: {match[2]}: {file} does not exist; correct the marker, or record the study")
        study = read_study(file)
        if match[1] == "records":
            content = table(study, words)
        elif len(words) == 2 and words[0] in PLOT_KINDS:
            image = f"{records.parent.name}/{name}{PLOT_KINDS[words[0]]}.png"
            plots[image] = PlotData(words[0], study)
            content = f"![{words[1]}]({image})"
        else:
            raise FolioError(f"{page}: {match[2]}: a plot needs {', '.join(PLOT_KINDS)}, and a description")
        return f"<!-- {match[1]}: {match[2]} -->\n\n{content}\n\n<!-- end -->"

    text = read_text(page)
    made, n_followed = MARKER.subn(replace, text)
    if n_followed < len(re.findall(r"<!-- (?:records|plot):", text)):
        raise FolioError(f"{page}: a marker has no <!-- end --> before the next one; write it")
    return made, plots


# Tables


def table(study: Study, headings: list[str]) -> str:
    """Return a Markdown table: a line for each row, or for each seed if there is a column `seed`.

    Transcribed rows have a mark, or the table has a line if all are.
    """
    all_transcribed = all(row.transcribed for row in study.rows)
    lines = [f"| {' | '.join(headings)} |", f"|{len(headings) * '---|'}"]
    for row in study.rows:
        for run in row.runs if "seed" in headings and row.runs else [None]:
            cells = [cell(row, heading, run) for heading in headings]
            if row.chosen:
                cells = [f"**{text}**" if text else "" for text in cells]
            if row.transcribed and not all_transcribed:
                cells[0] = f"{cells[0]} {TRANSCRIBED}"
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + ["", f"{TRANSCRIBED} Transcribed."] * all_transcribed)


def cell(row: Record, heading: str, run: RecordedRun | None) -> str:
    """Return what a column shows: what was measured, or else a label, or a value of the config; else nothing."""
    if heading == "seed" and run is not None:
        return str(run.seed)
    summary, formatter, unit = _summary(row, heading, run)
    if summary is not None:
        std = f" ± {formatter(summary.std)}" if summary.std else ""
        return f"{formatter(summary.mean)}{std}{unit}"
    if heading in row.labels:
        return row.labels[heading].replace("|", r"\|")
    flat = row.identity
    keys = [key for key in flat if key in (heading, f"{heading}.name") or key.endswith(f".{heading}")]
    return format_value(flat[min(keys, key=len)]) if keys else ""


def _summary(row: Record, heading: str, run: RecordedRun | None) -> tuple[Summary | None, Callable[[float], str], str]:
    """Return what a column shows of a row or of one of its runs, with its format and unit; None for a text."""
    at_step = AT_STEP.fullmatch(heading)
    name = at_step[1] or LOSS_HEADING if at_step else heading.removeprefix(LOWEST)
    if name not in MEASURED:
        return None, str, ""
    metric, formatter, unit = MEASURED[name]
    if run is None and name == heading:
        return row.summary(metric), formatter, unit
    values = []
    for one in row.runs if run is None else [run]:
        if at_step:
            step = int(at_step[2].replace(",", ""))
            values += [point[metric] for point in one.validations if point.get("step") == step and metric in point]
        elif name != heading:
            values += sorted(point[metric] for point in one.validations if metric in point)[:1]
        elif metric in one.metrics:
            values.append(one.metrics[metric])
    return summarize(values), formatter, unit


# Plots


class PlotData:
    """A plot of a study, which is drawn only if its data have changed."""

    def __init__(self, kind: str, study: Study) -> None:
        self.kind, self.study = kind, study

    @property
    def digest(self) -> str:
        """Checksum of everything that the plot shows."""
        rows = [row.model_dump(include={"labels", "command", "runs", "stated"}) for row in self.study.rows]
        return hashlib.sha256(json.dumps([self.kind, rows], sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def draw(self) -> "Figure":
        from folio.report.records_plots import PLOTS

        return PLOTS[self.kind](self.study)


def digest_in(image: Path) -> str | None:
    """Return the checksum of the data that an image was drawn from; None if it says nothing."""
    from PIL import Image

    try:
        with Image.open(image) as opened:
            return opened.info.get(DIGEST)
    except OSError:
        return None
