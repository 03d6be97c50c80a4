"""Draw the pictures of a run: python scripts/figures.py latest --prompt "To be, or not to be" """

from folio.runtime.signals import exit_on_signals

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

import re
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from folio.cli.compose import validate
from folio.cli.scripts import run_script
from folio.config.migrations import migrate_config
from folio.config.run import RunConfig
from folio.config.tokenizer import read_tokenizer_file
from folio.figures.attention import attention_figure
from folio.figures.curves import read_curves
from folio.figures.labelled_prompt import LabelledPrompt, label_prompt
from folio.figures.plots import loss_figure, positional_figure, schedule_figure
from folio.models import TransformerConfig
from folio.optim.schedules import learning_rates
from folio.runs.folders import check_links, find_checkpoint, find_started_run, list_checkpoints, read_config
from folio.runtime.errors import FolioError


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint in one, or 'latest'.")],
    prompt: Annotated[str | None, typer.Option(help="What attention is drawn for; that of the run's samples.")] = None,
    prefix: Annotated[str | None, typer.Option(help="What an encoder-decoder reads before the prompt.")] = None,
    layers: Annotated[str | None, typer.Option(help="Whose attention is drawn, as in 0,5,11 or 0-3.")] = None,
    heads: Annotated[str | None, typer.Option(help="The same of heads.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Which one of a run folder: best, last or step=N.")] = "best",
    output: Annotated[Path | None, typer.Option(help="Folder for the pictures; <RUN>/figures if not given.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Where 'latest' looks.")] = Path("outputs"),
) -> None:
    """Learning-rate schedule, loss curves, positional encoding and attention, as PNG files.

    Draws what the run has: before its first step that is the schedule (dry_run=true makes such a run).
    """
    folder, weights = locate(run, output_dir, checkpoint)
    config = validate(migrate_config(read_config(folder)))
    assert config.model.vocab_size is not None
    shape = config.transformer_config(config.model.vocab_size)
    chosen_layers, chosen_heads = numbers(layers, shape.n_layers, "layers"), numbers(heads, shape.n_heads, "heads")
    labelled = label(folder, config, shape, prompt, prefix)
    if output is None:
        check_links(folder)
    pictures = FigureLogger(output or folder / "figures", folder.name)

    pictures.save("schedule", schedule_figure(learning_rates(config), pictures.title("learning rate")))
    try:
        pictures.save("curves", loss_figure(read_curves(folder), pictures.title("loss")))
    except FolioError as error:
        print(f"no curves.png: {error}")
    if weights is None:
        print(f"no positional_encoding.png, no attention.png: {folder} has no checkpoint yet")
        return

    # Only now torch, whose import takes seconds.
    from folio.figures.inspection import attention_weights, positional_tables
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(weights, "cpu")
    tables = positional_tables(trained.model)
    for part, table in tables.items():
        title = pictures.title(f"{shape.positional_encoding} positional encoding{f' of the {part}' if part else ''}")
        name = f"positional_encoding_{part}" if part else "positional_encoding"
        pictures.save(name, positional_figure(table, shape.positional_encoding, title))
    if not tables:
        print(f"no positional_encoding.png: positional_encoding={shape.positional_encoding} has nothing to draw")
    if labelled is not None:
        figure = attention_figure(
            attention_weights(trained.model, labelled),
            labelled.row_labels,
            labelled.column_labels,
            pictures.title("attention", f"step {trained.step:,}", labelled.note),
            layers=chosen_layers,
            heads=chosen_heads,
            divider=labelled.divider,
        )
        pictures.save("attention", figure)


class FigureLogger:
    """Where the pictures of a run go. Raises: FolioError where they cannot."""

    def __init__(self, folder: Path, run_name: str) -> None:
        self.folder = folder
        self.run_name = run_name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolioError(f"--output={folder}: cannot make that folder ({error.strerror}); name another") from None

    def title(self, *parts: str) -> str:
        return f"{self.run_name}: {', '.join(filter(None, parts))}"

    def save(self, name: str, figure: Figure) -> None:
        file = self.folder / f"{name}.png"
        figure.savefig(file)
        print(file)


def locate(run: str, output_dir: Path, checkpoint: str) -> tuple[Path, Path | None]:
    """The run folder and the checkpoint, if there is one yet, that RUN means. Raises: FolioError."""
    if Path(run).is_file():
        weights = find_checkpoint(run, output_dir, checkpoint)
        folder = weights.parent.parent
        if not (folder / "config.yaml").is_file():
            raise FolioError(f"RUN={run}: {folder / 'config.yaml'} does not exist; give a checkpoint in its run folder")
        return folder, weights
    folder = find_started_run(run, output_dir)
    has_weights = bool(list_checkpoints(folder))
    return folder, find_checkpoint(str(folder), output_dir, checkpoint) if has_weights else None


def numbers(text: str | None, n: int, name: str) -> list[int] | None:
    """The numbers from 0 to n - 1 that a choice such as 0,5,11 or 0-3 means; None where nothing is chosen.

    Raises: FolioError.
    """
    if text is None:
        return None
    # No model has a layer of ten digits, and Python reads no number of 5,000.
    if not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*", text):
        raise FolioError(f"--{name}={text} is no choice of {name}; write numbers and ranges, as in 0,5,11 or 0-3")
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not int(first) <= int(last or first) < n:
            raise FolioError(f"--{name}={text}: the model has {name} 0 to {n - 1}, in ascending order; choose of these")
        found += range(int(first), int(last or first) + 1)
    return found


def label(
    folder: Path, config: RunConfig, shape: TransformerConfig, prompt: str | None, prefix: str | None
) -> LabelledPrompt | None:
    """What attention is drawn for; where nothing is given, what samples of the run begin with.

    Raises: FolioError for a given text that the model cannot read. None, and a line that says why, where that of the
    samples is such a text.
    """
    file = folder / "tokenizer.json"
    try:
        tokenizer = read_tokenizer_file(file)
    except (OSError, ValueError):  # of which FolioError is one
        raise FolioError(f"{file} is missing or damaged; give another run, or bring the file back") from None
    begin, is_given = config.callbacks.samples.prompt, (prompt, prefix) != (None, None)
    if shape.family == "encoder_decoder":
        prompt, prefix = prompt or "", prefix if is_given else begin
    else:
        prompt = begin if prompt is None else prompt
    try:
        return label_prompt(shape, tokenizer, prompt, prefix)
    except FolioError as error:
        if is_given:
            raise
        print(f"no attention.png: {error}")
        return None


if __name__ == "__main__":
    run_script(main)
