"""Draw the figures of a run: python scripts/figures.py latest --prompt "To be, or not to be"

Without a run: python scripts/figures.py --scaling --d-head 512, or --coordinate-check --optimizer muon
"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from matplotlib.figure import Figure

from folio.cli.compose import validate_stored
from folio.cli.config_files import option_names, read_keys
from folio.cli.scripts import run_script
from folio.config.optimizer import Optimizers
from folio.config.run import RunConfig
from folio.config.section import sections_by_name
from folio.config.tokenizer import read_tokenizer_file
from folio.data.tokenizers.char import CharTokenizer
from folio.figures.attention import MAX_MAPS, attention_figure, batch_attention_figure
from folio.figures.attention_scaling import MAX_D_HEAD, N_KEYS, measure_scaling
from folio.figures.curves import read_curves
from folio.figures.labeled_prompt import MAX_TOKENS, LabeledPrompt, label_prompt
from folio.figures.plots import (
    coordinate_figure,
    format_variance,
    loss_figure,
    positional_figure,
    scaling_figure,
    schedule_figure,
    spread,
)
from folio.models import TransformerConfig
from folio.models.transformer_config import Parametrization
from folio.optim.schedules import learning_rates
from folio.report.writing import to_png
from folio.runs.folders import find_checkpoint, find_started_run, list_checkpoints, read_config
from folio.runtime.commands import CHECKOUT
from folio.runtime.errors import FolioError
from folio.runtime.files import check_output_folder, check_writable, expand_home, make_folder, write_atomically
from folio.runtime.terminal import did_you_mean

DEMONSTRATIONS = {
    "positional_encoding": {"d_model", "context_length", "n_heads", "dimensions", "positions", "output"},
    "attention": {"prompt", "d_model", "n_heads", "heads", "output"},
    "scaling": {"d_head", "output"},
    "coordinate_check": {"d_model", "optimizer", "output"},
}
"""Figures that need no run, with the options that act on each."""

OF_A_RUN = {"prompt", "prefix", "layers", "heads", "output"}


MAX_TABLE = 2**22
"""Largest number of values of a positional encoding that is drawn."""

MAX_CHECKED_WIDTH = 2048
"""Widest model of a coordinate check: one step then takes seconds."""


def main(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run folder, a checkpoint in one, or 'latest'.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="The text to draw attention for; that of the run's samples if not given. Repeated for a decoder, the "
            "texts form a batch: one picture per layer."
        ),
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="What an encoder-decoder reads before the prompt.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to draw attention for, as in 0,5,11 or 0-3.")] = None,
    heads: Annotated[str | None, typer.Option(help="Heads to draw attention for, likewise.")] = None,
    positional_encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Without a RUN: draw this encoding, such as sinusoidal.")
    ] = None,
    attention: Annotated[
        bool,
        typer.Option("--attention", help="Without a RUN: draw the attention of an untrained GPT over the prompts."),
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Without a RUN: measure why attention divides by the root of d_head.")
    ] = False,
    coordinate_check: Annotated[
        bool,
        typer.Option(
            "--coordinate-check",
            help="Without a RUN: train models of four widths for a few steps, with model.parametrization=standard and "
            "mup, and draw how much their activations change.",
        ),
    ] = False,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Optimizer of the coordinate check, adamw or muon; adamw.")
    ] = None,
    d_model: Annotated[
        int | None,
        typer.Option(
            help="Width of the encoding or of the untrained GPT; 64. Widest model of the coordinate check; 512."
        ),
    ] = None,
    n_heads: Annotated[int | None, typer.Option(help="Heads of the untrained GPT, of rotary and alibi; 4.")] = None,
    context_length: Annotated[int | None, typer.Option(help="Number of positions of the encoding; 128.")] = None,
    dimensions: Annotated[
        str | None, typer.Option(help="Dimensions of the encoding to draw as curves, as in 0,1,2,3 or 0-3.")
    ] = None,
    positions: Annotated[int | None, typer.Option(help="Number of positions that the curves show; all.")] = None,
    d_head: Annotated[int | None, typer.Option(help="Widest head to measure the scaling for; 512.")] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Which checkpoint of a run folder: best, last, epoch=N or step=N.")
    ] = "best",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the figures; <RUN>/figures, or without a RUN figures, if not given.")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="The folder in which 'latest' looks for runs.")] = Path("outputs"),
) -> None:
    """Draw the learning-rate schedule, loss curves, positional encoding and attention of a run as PNG files.

    A run without steps has only a schedule (dry_run=true makes such a run). Without a run, draw a positional encoding,
    the attention of an untrained model, the scaling of attention scores, or the coordinate check of
    model.parametrization.
    """
    given = {
        "prompt": prompt,
        "prefix": prefix,
        "layers": layers,
        "heads": heads,
        "d_model": d_model,
        "optimizer": optimizer,
        "n_heads": n_heads,
        "context_length": context_length,
        "dimensions": dimensions,
        "positions": positions,
        "d_head": d_head,
    }
    subject = choose_subject(run, positional_encoding, attention, scaling, coordinate_check)
    check_options(subject, {name for name, value in given.items() if value is not None})
    if run is not None:
        draw_run(run, prompt or [], prefix, layers, heads, checkpoint, output, output_dir)
        return
    figures = FigureWriter(output or Path("figures"), "")
    check_output_folder(figures.folder, "--output")
    if positional_encoding is not None:
        config = untrained_config(d_model, n_heads, context_length, positional_encoding)
        draw_encoding(figures, config, dimensions, positions)
    elif attention:
        draw_untrained_attention(figures, prompt or ["To be, or", "not to"], d_model, n_heads, heads)
    elif scaling:
        draw_scaling(figures, 512 if d_head is None else d_head)
    else:
        draw_coordinate_check(figures, optimizer or "adamw", 512 if d_model is None else d_model)


def choose_subject(
    run: str | None, positional_encoding: str | None, attention: bool, scaling: bool, coordinate_check: bool
) -> str:
    """Return what is to be drawn: "RUN", or a key of DEMONSTRATIONS. Raises: FolioError unless it is one."""
    wanted = {
        "RUN": run is not None,
        "positional_encoding": positional_encoding is not None,
        "attention": attention,
        "scaling": scaling,
        "coordinate_check": coordinate_check,
    }
    chosen = [name for name, is_wanted in wanted.items() if is_wanted]
    if len(chosen) == 1:
        return chosen[0]
    names = " and ".join(as_option(name) for name in chosen)
    raise FolioError(
        (f"{names} are separate figures; " if chosen else "there is nothing to draw; ")
        + "give one of RUN, --positional-encoding, --attention, --scaling and --coordinate-check"
    )


def check_options(subject: str, given: set[str]) -> None:
    """Raises: FolioError if an option does not act on what is drawn."""
    useful = OF_A_RUN if subject == "RUN" else DEMONSTRATIONS[subject]
    for name in sorted(given - useful):
        known = ", ".join(as_option(other) for other in sorted(useful))
        raise FolioError(f"{as_option(name)} has no effect with {as_option(subject)}, which has {known}; leave it out")


def as_option(name: str) -> str:
    return name if name == "RUN" else f"--{name.replace('_', '-')}"


def draw_run(
    run: str,
    prompts: list[str],
    prefix: str | None,
    layers: str | None,
    heads: str | None,
    checkpoint: str,
    output: Path | None,
    output_dir: Path,
) -> None:
    """Draw every figure of a run that there is, and print why the others are missing."""
    folder, weights = locate(run, output_dir, checkpoint)
    config = validate_stored(read_config(folder))
    assert config.model.vocab_size is not None
    model_config = config.transformer_config(config.model.vocab_size)
    chosen_layers = parse_numbers(layers, model_config.n_layers, "layers")
    chosen_heads = parse_numbers(heads, model_config.n_heads, "heads")
    if len(prompts) > 1 and model_config.family != "decoder":
        raise FolioError(f"--prompt is given {len(prompts)} times, but only a decoder reads a batch; give one")
    wanted: list[str | None] = [*prompts] or [None]
    texts = [label_text(folder, config, model_config, prompt, prefix) for prompt in wanted]
    labeled = [text for text in texts if text is not None]
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
    from folio.figures.inspection import attention_weights, batch_attention_weights, positional_tables
    from folio.models import GPT
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(weights, "cpu")
    tables, encoding = positional_tables(trained.model), model_config.positional_encoding
    for part, table in tables.items():
        title = figures.title(f"{encoding} positional encoding{f' of the {part}' if part else ''}")
        name = f"positional_encoding_{part}" if part else "positional_encoding"
        figures.save(name, positional_figure(table, encoding, title))
    if not tables:
        print(f"no positional_encoding.png: positional_encoding={encoding} has nothing to draw")
    step = f"step {trained.step:,}"
    if len(labeled) > 1:
        assert isinstance(trained.model, GPT)
        weights_of_layers = batch_attention_weights(trained.model, [text.tokens for text in labeled])
        for layer in spread(len(weights_of_layers), MAX_MAPS) if chosen_layers is None else chosen_layers:
            title = figures.title(f"attention of layer {layer}", step, *{text.note for text in labeled})
            figure = batch_attention_figure(weights_of_layers[layer], padded_labels(labeled), title, heads=chosen_heads)
            figures.save(f"attention_layer_{layer}", figure)
    elif labeled:
        (text,) = labeled
        figure = attention_figure(
            attention_weights(trained.model, text),
            text.row_labels,
            text.column_labels,
            figures.title("attention", step, text.note),
            layers=chosen_layers,
            heads=chosen_heads,
            divider=text.divider,
        )
        figures.save("attention", figure)


def padded_labels(texts: Sequence[LabeledPrompt]) -> list[list[str]]:
    """Return the labels of texts that are padded at the start; those of padding are empty."""
    longest = max(len(text.row_labels) for text in texts)
    return [[""] * (longest - len(text.row_labels)) + text.row_labels for text in texts]


def untrained_config(
    d_model: int | None, n_heads: int | None, context_length: int | None, encoding: str, vocab_size: int = 1
) -> TransformerConfig:
    """Return the config of a model that no run has trained. Raises: FolioError naming the option."""
    known = option_names(CHECKOUT / "conf", "positional_encoding")
    if encoding not in known:
        raise FolioError(
            f"--positional-encoding={encoding} is not one of {', '.join(known)}{did_you_mean(encoding, known)}"
        )
    d_model = 64 if d_model is None else d_model
    try:
        return TransformerConfig(
            vocab_size=vocab_size,
            context_length=128 if context_length is None else context_length,
            n_layers=1,
            n_heads=max(n for n in (1, 2, 4) if d_model % n == 0) if n_heads is None else n_heads,
            d_model=d_model,
            positional_encoding=encoding,
        )
    except ValueError as error:
        message = re.sub(r"\b(d_model|n_heads|context_length)=", lambda found: f"{as_option(found[1])}=", str(error))
        raise FolioError(message) from None


def draw_encoding(
    figures: "FigureWriter", config: TransformerConfig, dimensions: str | None, positions: int | None
) -> None:
    """Draw a positional encoding that is computed, not trained. Raises: FolioError if there is nothing to draw."""
    encoding, n_positions = config.positional_encoding, config.context_length
    if n_positions * config.d_model > MAX_TABLE:
        raise FolioError(
            f"--context-length={n_positions} times --d-model={config.d_model} is more than the {MAX_TABLE:,} values "
            "that a picture shows; lower one of them"
        )
    if positions is not None and not 1 <= positions <= n_positions:
        raise FolioError(f"--positions={positions} must be from 1 to the --context-length, {n_positions}")
    parse_numbers(dimensions, config.d_model, "dimensions")  # no encoding has more of them

    from folio.figures.inspection import computed_table

    table = computed_table(config)
    if table is None:
        raise FolioError(
            f"--positional-encoding={encoding} is trained, or adds nothing, so there is no table before training; "
            "give the RUN of a model that has it, or sinusoidal, rotary or alibi"
        )
    chosen = parse_numbers(dimensions, table.shape[1], "dimensions")
    title = f"{encoding} positional encoding, {n_positions} positions, d_model {config.d_model}"
    figure = positional_figure(table, encoding, title, dimensions=chosen, n_positions=positions)
    figures.save(f"positional_encoding_{encoding}", figure)


def draw_untrained_attention(
    figures: "FigureWriter", prompts: list[str], d_model: int | None, n_heads: int | None, heads: str | None
) -> None:
    """Draw the attention of the first layer of a new GPT over the characters of each text."""
    if "" in prompts:
        raise FolioError("--prompt= gives no tokens, so there is no attention to draw; give some text")
    tokenizer = CharTokenizer("".join(sorted(set("".join(prompts)))))
    config = untrained_config(d_model, n_heads, MAX_TOKENS, "learned", vocab_size=tokenizer.vocab_size)
    chosen = parse_numbers(heads, config.n_heads, "heads")
    texts = [label_prompt(config, tokenizer, prompt) for prompt in prompts]

    import torch

    from folio.figures.inspection import batch_attention_weights
    from folio.models import GPT

    torch.manual_seed(0)
    (weights,) = batch_attention_weights(GPT(config).eval(), [text.tokens for text in texts])
    title = f"attention of an untrained GPT, d_model {config.d_model}"
    figures.save("attention_untrained", batch_attention_figure(weights, padded_labels(texts), title, heads=chosen))


def draw_coordinate_check(figures: "FigureWriter", optimizer: str, d_model: int) -> None:
    """Print and draw how the changes of a few steps grow with the width. Raises: FolioError."""
    widths = [d_model // divisor for divisor in (8, 4, 2, 1)]
    if d_model % 32 or not 64 <= d_model <= MAX_CHECKED_WIDTH:
        raise FolioError(
            f"--d-model={d_model} must be a multiple of 32 from 64 to {MAX_CHECKED_WIDTH:,}: it is the widest of four "
            "models, each twice as wide as the one before, with 4 heads; 512 is usual"
        )
    known = {name: section for name, section in sections_by_name(Optimizers).items() if section.fits_mup}
    if optimizer not in known:
        raise FolioError(
            f"--optimizer={optimizer} is not one of {', '.join(known)}, which follow model.parametrization=mup"
            f"{did_you_mean(optimizer, list(known))}"
        )
    config = known[optimizer](**read_keys(CHECKOUT / "conf" / "optimizer" / f"{optimizer}.yaml"))

    from folio.figures.coordinate_check import PARTS, check_coordinates

    checks = [check_coordinates(name, config, widths) for name in get_args(Parametrization)]
    headings = ("change grows as", *(f"parametrization={check.parametrization}" for check in checks))
    print_columns(headings, [(part, *(f"d_model^{check.growth(part):+.2f}" for check in checks)) for part in PARTS])
    title = f"coordinate check: steps 1 to {len(checks[0].changes[PARTS[0]][0])} of {optimizer}"
    figures.save(f"coordinate_check_{optimizer}", coordinate_figure(checks, title))


def draw_scaling(figures: "FigureWriter", d_head: int) -> None:
    """Print and draw the variance of products of queries and keys, with and without scaling, and their softmax."""
    if not 1 <= d_head <= MAX_D_HEAD:
        raise FolioError(f"--d-head={d_head} must be from 1 to {MAX_D_HEAD:,}; 512 is usual in a demonstration")
    measurements = measure_scaling(d_head)
    headings = ("d_head", "variance of q k", "of q k / sqrt(d_head)", "largest weight", "largest weight, scaled")
    rows = [
        (
            str(row.d_head),
            format_variance(row.variance),
            format_variance(row.scaled_variance),
            f"{row.largest_weight:.3f}",
            f"{row.scaled_largest_weight:.3f}",
        )
        for row in measurements
    ]
    print_columns(headings, rows)
    print(f"largest weight: mean over softmaxes of {N_KEYS} keys; equal weights would be {1 / N_KEYS:.3f}")
    title = "Products of random queries and keys, and their softmax, without and with scaling"
    figures.save("scaling", scaling_figure(measurements, title))


def print_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


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
            owner = "the encoding" if name == "dimensions" else "the model"
            raise FolioError(f"--{name}={text}: {owner} has {name} 0 to {n - 1}, in ascending order; choose from these")
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
