"""Draw the figures of a run: python scripts/figures.py latest --prompt "To be, or not to be" """

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

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
from folio.figures.labeled_prompt import LabeledPrompt, label_prompt
from folio.figures.plots import loss_figure, positional_figure, schedule_figure
from folio.models import TransformerConfig
from folio.optim.schedules import learning_rates
from folio.report.writing import to_png
from folio.runs.folders import find_checkpoint, find_started_run, list_checkpoints, read_config
from folio.runtime.errors import FolioError
from folio.runtime.files import check_output_folder, check_writable, expand_home, make_folder, write_atomically


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint in one, or 'latest'.")],
    prompt: Annotated[
        str | None, typer.Option(help="The text to draw attention for; that of the run's samples if not given.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="What an encoder-decoder reads before the prompt.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to draw attention for, as in 0,5,11 or 0-3.")] = None,
    heads: Annotated[str | None, typer.Option(help="Heads to draw attention for, likewise.")] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Which checkpoint of a run folder: best, last, epoch=N or step=N.")
    ] = "best",
    output: Annotated[Path | None, typer.Option(help="Folder for the figures; <RUN>/figures if not given.")] = None,
    output_dir: Annotated[Path, typer.Option(help="The folder in which 'latest' looks for runs.")] = Path("outputs"),
) -> None:
    """Draw the learning-rate schedule, loss curves, positional encoding and attention as PNG files.

    A run without steps has only a schedule (dry_run=true makes such a run).
    """
    folder, weights = locate(run, output_dir, checkpoint)
    config = validate(migrate_config(read_config(folder)))
    assert config.model.vocab_size is not None
    model_config = config.transformer_config(config.model.vocab_size)
    chosen_layers = parse_numbers(layers, model_config.n_layers, "layers")
    chosen_heads = parse_numbers(heads, model_config.n_heads, "heads")
    labeled = label_text(folder, config, model_config, prompt, prefix)
    if output is None:
        check_writable(folder)
    check_output_folder(output or folder / "figures", "--output")
    figures = FigureWriter(output or folder / "figures", folder.name)

    figures.save("schedule", schedule_figure(learning_rates(config), figures.title("learning rate")))
    try:
        figures.save("curves", loss_figure(read_curves(folder), figures.title("loss")))
    except FolioError as error:
        print(f"no curves.png: {error}")
    if weights is None:
        print(f"no positional_encoding.png, no attention.png: {folder} has no checkpoint yet")
        return

    # Only now torch, whose import takes seconds.
    from folio.figures.inspection import attention_weights, positional_tables
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(weights, "cpu")
    tables, encoding = positional_tables(trained.model), model_config.positional_encoding
    for part, table in tables.items():
        title = figures.title(f"{encoding} positional encoding{f' of the {part}' if part else ''}")
        name = f"positional_encoding_{part}" if part else "positional_encoding"
        figures.save(name, positional_figure(table, encoding, title))
    if not tables:
        print(f"no positional_encoding.png: positional_encoding={encoding} has nothing to draw")
    if labeled is not None:
        figure = attention_figure(
            attention_weights(trained.model, labeled),
            labeled.row_labels,
            labeled.column_labels,
            figures.title("attention", f"step {trained.step:,}", labeled.note),
            layers=chosen_layers,
            heads=chosen_heads,
            divider=labeled.divider,
        )
        figures.save("attention", figure)


class FigureWriter:
    """Saves the figures of a run in a folder."""

    def __init__(self, folder: Path, run_name: str) -> None:
        self.folder = folder
        self.run_name = run_name

    def title(self, *parts: str) -> str:
        return f"{self.run_name}: {', '.join(filter(None, parts))}"

    def save(self, name: str, figure: Figure) -> None:
        file = self.folder / f"{name}.png"
        with make_folder(self.folder, "--output"):
            write_atomically(file, to_png(figure))
        print(file)


def locate(run: str, output_dir: Path, checkpoint: str) -> tuple[Path, Path | None]:
    """Return the run folder that RUN names, and its checkpoint if there is one yet. Raises: FolioError."""
    if Path(expand_home(run)).is_file():
        weights = find_checkpoint(run, output_dir, checkpoint)
        folder = weights.parent.parent
        if not (folder / "config.yaml").is_file():
            raise FolioError(f"RUN={run}: {folder / 'config.yaml'} does not exist; give a checkpoint in its run folder")
        return folder, weights
    folder = find_started_run(run, output_dir)
    has_weights = bool(list_checkpoints(folder))
    return folder, find_checkpoint(str(folder), output_dir, checkpoint) if has_weights else None


def parse_numbers(text: str | None, n: int, name: str) -> list[int] | None:
    """Parse numbers from 0 to n - 1, written as 0,5,11 or 0-3; None if there is no text. Raises: FolioError."""
    if text is None:
        return None
    # At most nine digits, since Python refuses to parse a number of 5,000.
    if not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*", text):
        raise FolioError(f"--{name}={text} is not a list of {name}; write numbers and ranges, as in 0,5,11 or 0-3")
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not int(first) <= int(last or first) < n:
            raise FolioError(
                f"--{name}={text}: the model has {name} 0 to {n - 1}, in ascending order; choose from these"
            )
        found += range(int(first), int(last or first) + 1)
    return found


def label_text(
    folder: Path, config: RunConfig, model_config: TransformerConfig, prompt: str | None, prefix: str | None
) -> LabeledPrompt | None:
    """Return the text to draw attention for: the given one, or the prompt of the run's samples.

    Raises: FolioError if the model cannot read the given text. If it cannot read the samples' prompt, print why and
    return None.
    """
    file = folder / "tokenizer.json"
    try:
        tokenizer = read_tokenizer_file(file)
    except (OSError, ValueError):  # FolioError is one
        raise FolioError(f"{file} is missing or damaged; give another run, or restore the file") from None
    default, is_given = config.callbacks.samples.prompt, (prompt, prefix) != (None, None)
    if model_config.family == "encoder_decoder":
        prompt, prefix = prompt or "", prefix if is_given else default
    else:
        prompt = default if prompt is None else prompt
    try:
        return label_prompt(model_config, tokenizer, prompt, prefix)
    except FolioError as error:
        if is_given:
            raise
        print(f"no attention.png: {error}")
        return None


if __name__ == "__main__":
    run_script(main)
