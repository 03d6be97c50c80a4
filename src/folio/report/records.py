"""Records of published results: one JSON file for each table, one row for each configuration, without the run folders.

A record holds what a stranger needs to repeat a row and to compare: the words of the command, the config, the seeds,
and what each run measured. It holds no path and no name of a person or a machine.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from folio.config.migrations import migrate_config
from folio.config.section import Section
from folio.config.stored_words import check_words
from folio.report.grouping import KEYS_WITHOUT_EFFECT, Group
from folio.report.reading import ReportedRun, flatten
from folio.report.statistics import Summary, summarize
from folio.report.text import Scalar
from folio.runs.folders import read_config
from folio.runtime.commands import CHECKOUT, quote_for_shell
from folio.runtime.errors import FolioError
from folio.runtime.files import write_json
from folio.runtime.terminal import did_you_mean, printable
from folio.runtime.untrusted import read_json_object, refuse, shown

RECORDS = CHECKOUT / "docs" / "results" / "records"
"""Folder of the published records."""

LEFT_OUT = ("name", "tags", "notes", "paths", "resume", "dry_run", "logger")
"""Keys and groups of a config that say where a run was written and what a person thought of it."""

NOT_COMPARED = (
    *KEYS_WITHOUT_EFFECT,
    "seed",
    "trainer",
    "deterministic",
    "debug",
    "data.path",
    "training.micro_batch_size",
    "training.validate_every_steps",
)
"""Keys that may differ between a row and a repetition: those of the machine, how often the loss is measured, and where
the text is, whose checksum counts."""

VALIDATION_TAGS = ("val/loss_nats", "val/bits_per_byte", "val/accuracy")

MACHINE_FACTS = ("device", "processor", "git_commit")
"""The facts of a run that are not versions."""

ABSOLUTE_PATH = re.compile(r"(?<![\w.:])(?:~\w*|[A-Za-z]:)?[/\\](?:[^\s,=\]'\"]*[/\\])?")
"""The folders of an absolute path inside a text, such as a list."""

OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./]*=.*")


class RecordedRun(Section):
    """One seed."""

    seed: int
    metrics: dict[str, float]
    """The numbers of metrics.json."""
    validations: list[dict[str, float]] = Field(default_factory=list)
    """Step and metrics of each validation."""
    device: str = ""
    processor: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    git_commit: str = ""


class Stated(Section):
    """Statistics of a metric whose seeds are not known one by one."""

    n: int = Field(ge=1)
    mean: float
    std: float | None = Field(default=None, ge=0.0)


class Record(Section):
    """A row of a table: one configuration with its seeds."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Texts by the heading of their column, for what is neither measured nor a key of the config."""
    chosen: bool = False
    """Whether the row is printed bold."""
    transcribed: bool = False
    """Whether the row was copied from a page because its run folders are gone."""
    command: list[str] | None = None
    """Overrides of train.py, without the seed; None if no command of train.py repeats the row."""
    config: dict[str, Any] = Field(default_factory=dict)
    text_sha256: str = ""
    runs: list[RecordedRun] = Field(default_factory=list)
    """The seeds. Those of a transcribed row may lack metrics, where `stated` has them all together."""
    stated: dict[str, Stated] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_measured(self) -> "Record":
        if not self.transcribed and not (self.config and self.runs and self.command is not None):
            raise ValueError("a row that is not transcribed needs command, config and runs")
        if not self.transcribed and self.stated:
            raise ValueError("only a transcribed row may state what no run of it measured")
        return self

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def text_labels(self) -> dict[str, str]:
        """The labels that are no numbers: a transcribed row may state its figures as texts."""
        return {heading: text for heading, text in self.labels.items() if not re.fullmatch(r"[\d.,± ]+s?", text)}

    @property
    def identity(self) -> dict[str, Scalar]:
        """Keys that a repetition must have in common with this row; empty if it has no config."""
        return identity_of(self.config, self.text_sha256) if self.config else {}

    def summary(self, metric: str) -> Summary | None:
        """Return the statistics of a metric over seeds; None if no run has it."""
        if metric in self.stated:
            return Summary(**self.stated[metric].model_dump())
        return summarize([run.metrics[metric] for run in self.runs if metric in run.metrics])

    def repeat_command(self) -> str:
        """Return the command that repeats this row; empty if it has none, or one that says more than what to train."""
        if self.command is None or check_words(self.command) is not None:
            return ""
        seeds = [f"seed={','.join(map(str, self.seeds))}"] if self.seeds else []
        multirun = ["-m"] if len(self.seeds) > 1 else []
        return " ".join(("python train.py", *multirun, *map(quote_for_shell, [*self.command, *seeds])))


class Study(Section):
    """The rows of one table."""

    format: Literal[1] = 1
    rows: list[Record]


# Files


def study_path(name: str) -> Path:
    """Return the file of a study: a path of a JSON file, or the name of a published one. Raises: FolioError."""
    path = Path(name) if name.endswith(".json") else RECORDS / f"{name}.json"
    if not path.is_file():
        known = sorted(file.stem for file in RECORDS.glob("*.json"))
        hint = did_you_mean(name, known) or f"; published are {', '.join(known)}"
        raise FolioError(f"{printable(name, keep='')}: there is no such record{hint}")
    return path


def read_study(path: Path) -> Study:
    """Read a study; nothing in the file is trusted. Raises: UntrustedFileError, OSError."""
    try:
        return Study.model_validate(read_json_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "record"
        refuse(path, f"is no record ({shown(place)}: {shown(first['msg'])})", "give a file of docs/results/records/")


def write_study(path: Path, study: Study) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, study.model_dump(exclude_defaults=True) | {"format": study.format})


# From runs


def record_group(group: Group, labels: dict[str, str]) -> Record:
    """Return the record of a configuration's finished runs. Raises: FolioError if no command can repeat it."""
    first = group.averaged[0]
    words = [word for word in first.overrides or [] if not _is_left_out(word)]
    problem = "it was started without overrides.json" if first.overrides is None else check_words(words)
    if problem:
        raise FolioError(
            f"{first.folder}: its command cannot be published ({problem}); start the run with one that can"
        )
    config = migrate_config(read_config(first.folder))
    return Record(
        labels=labels,
        command=[_public(word) for word in words],
        config=_public({key: value for key, value in config.items() if key not in (*LEFT_OUT, "seed")}),
        text_sha256=first.text_sha256,
        runs=[_record_run(run) for run in group.averaged],
    )


def _record_run(run: ReportedRun) -> RecordedRun:
    if not isinstance(run.seed, int):
        raise FolioError(f"{run.folder}: its config has no seed; record a run that has one")
    curves = {tag: run.curves[tag] for tag in VALIDATION_TAGS if tag in run.curves}
    by_step: dict[int, dict[str, float]] = {}
    for tag, curve in curves.items():
        for step, value in zip(curve.steps, curve.values, strict=True):
            by_step.setdefault(step, {"step": step})[tag] = round(value, 6)  # curves hold float32
    return RecordedRun(
        seed=run.seed,
        metrics={name: value for name, value in run.metrics.items() if name != "seed"},
        validations=[by_step[step] for step in sorted(by_step)],
        versions={name: value for name, value in run.facts.items() if name not in MACHINE_FACTS},
        **{name: run.facts.get(name, "") for name in MACHINE_FACTS},
    )


def _is_left_out(word: str, names: Sequence[str] = (*LEFT_OUT, "seed", "sweep")) -> bool:
    key = word.lstrip("+~").partition("=")[0]
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _compared_words(command: Sequence[str] | None) -> set[str] | None:
    """Return the words by which the row of a command is found; None if there is no command."""
    if command is None:
        return None
    return {_public(word) for word in command if not _is_left_out(word, (*LEFT_OUT, *NOT_COMPARED))}


def _public(value: Any) -> Any:
    """Return a value with absolute paths, which name people and machines, cut to their last part."""
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    if not isinstance(value, str):
        return value
    key, sign, text = value.rpartition("=") if OVERRIDE.fullmatch(value) else ("", "", value)
    if text.startswith(("/", "~")):
        return f"{key}{sign}{Path(text).name}"
    return ABSOLUTE_PATH.sub("", value)


def identity_of(config: dict[str, Any], text_sha256: str) -> dict[str, Scalar]:
    """Return the values of a config that decide its results, apart from the seed and the machine."""
    flat = flatten(_public(migrate_config(config)))
    kept: dict[str, Scalar] = {
        key: value
        for key, value in flat.items()
        if value is not None and not any(key == name or key.startswith(f"{name}.") for name in NOT_COMPARED)
    }
    return kept | {"text_sha256": text_sha256}


def merge_rows(rows: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """Return the rows of a study with new ones: in the place of the row of the same configuration, or at the end.

    Labels and emphasis of that row are kept, and its other seeds, unless it was transcribed.
    """
    merged = list(rows)
    for record in new:
        place = find_row(merged, record.identity, record.command)
        if place is None:
            merged.append(record)
        else:
            old = merged[place]
            seeds = {run.seed: run for run in [*([] if old.transcribed else old.runs), *record.runs]}
            runs = [seeds[seed] for seed in sorted(seeds)]
            changes = {"labels": old.text_labels | record.labels, "chosen": old.chosen, "runs": runs}
            merged[place] = record.model_copy(update=changes)
    return merged


def find_row(rows: Sequence[Record], identity: dict[str, Scalar], command: Sequence[str] | None) -> int | None:
    """Return the index of the row of a configuration; of a transcribed row, of its command. None if there is none."""
    words = _compared_words(command)
    for index, row in enumerate(rows):
        if row.identity == identity if row.config else words is not None and words == _compared_words(row.command):
            return index
    return None
