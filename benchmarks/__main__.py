"""Speed and memory, measured side by side: python -m benchmarks [PART ...] [--nanogpt PATH]

docs/performance.md says what each part measures, and what came of it.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import hydra
import typer
from omegaconf import OmegaConf
from rich.console import Console

from benchmarks.contenders.selection import choose_peers
from benchmarks.options import Options, Progress
from benchmarks.parts.quality import CONTESTS, measure_quality
from benchmarks.report.results import Report
from benchmarks.workloads import SAME_FUNCTION, WORKS, Work
from folio.cli.compose import validate
from folio.cli.corpus import prepared_data
from folio.cli.scripts import run_script
from folio.config.checks import check_config, check_split_lengths, fill_vocab_size
from folio.config.run import RunConfig
from folio.runtime.errors import FolioError
from folio.runtime.terminal import did_you_mean

ROOT = Path(__file__).resolve().parent.parent
CONF_DIR = ROOT / "conf"

PLAIN_WIDTH = 170
"""Columns of the tables where no terminal has its own."""

PARTS = {
    "hardware": "matrix products and copying at their fastest",
    "step": "training steps of Folio and its peers; comes with hardware",
    "overhead": "train.py against a bare loop, at the works a and b",
    "memory": "peak memory of the same processes",
    "data": "a batch: one gather against a loop",
    "loss": "the loss over 50,257 symbols: chunks against all logits at once",
    "generation": "GPT-2 small writes 64 and 256 tokens",
    "startup": "until the first error, token and step",
    "scaling": "a step against context, batch, vocabulary, depth and corpus",
    "prepare": "a corpus and a text into tokens, against tiktoken alone; two minutes, so only by name",
    "quality": "who reaches a validation loss first; takes many minutes, so only by name",
}
ONLY_BY_NAME = ("quality", "prepare")
TRAINING = {"step", "overhead", "memory"}
"""Parts that measure the works."""


def main(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PART...", help=f"Of {', '.join(PARTS)}; all but the last two if none is named."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each side has its turn.")] = 3,
    nanogpt: Annotated[Path | None, typer.Option(help="A checkout of nanoGPT to compare with.")] = None,
    peers: Annotated[
        str | None, typer.Option(help="Of bare, hf, nanogpt, separated by commas; all there are if not given.")
    ] = None,
    work: Annotated[
        str | None, typer.Option(help="Of a, b, c, d and (on a GPU) e, separated by commas; all if not given.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help=f"Of quality: {', '.join(CONTESTS)}, separated by commas; both if not given.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="An override of train.py for every run; may be given again.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each side; torch's choice if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write everything there as JSON.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw pictures into that folder.")] = None,
) -> None:
    """Time Folio and other programs in turn, A B A B ..., and show medians, spread and ratios.

    Each side is a process of its own that waits while another works. Before a time counts, the sides have to have the
    same losses on the same batches. All parts but the last two take about ten minutes on two cores, without nanoGPT.
    """
    chosen = choose(parts or [], PARTS, "part") or [part for part in PARTS if part not in ONLY_BY_NAME]
    works = choose(work.split(",") if work else [], WORKS, "--work")
    recipes = choose(recipe.split(",") if recipe else [], CONTESTS, "--recipe")
    for option, value in (("rounds", rounds), ("threads", threads)):
        if value is not None and value < 1:
            raise FolioError(f"--{option}={value} must be 1 or more")
    check_targets(output, plots)
    progress, given = Progress(), tuple(overrides or ())
    options = Options(rounds, choose_peers(peers, nanogpt), composed, threads, given, progress)
    check_overrides(given, works or list(WORKS) if TRAINING.intersection(chosen) else [])

    report = Report({})
    try:
        measure(chosen, settle_works(works), recipes or list(CONTESTS), options, report)
    finally:  # what was measured before a mistake, or before Ctrl-C, took long enough
        progress.clear()
        if report.series:
            present(report, output, plots)


def choose(names: list[str], known: Iterable[str], option: str) -> list[str]:
    """The names, each once, in the order of what is known. Raises: FolioError for one that is not."""
    known = list(known)
    for name in names:
        if name not in known:
            raise FolioError(f"{option}={name} is not one of {', '.join(known)}{did_you_mean(name, known)}")
    return [name for name in known if name in names]


def check_targets(output: Path | None, plots: Path | None) -> None:
    """Whether the results can be written, before there are any. Raises: FolioError."""
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise FolioError(f"--output={output} cannot be written: it is a folder, or lies in none; name a file")
    if plots is not None and plots.exists() and not plots.is_dir():
        raise FolioError(f"--plots={plots} is a file; name a folder")


def settle_works(names: list[str]) -> list[Work]:
    """The works of these names; all that this machine can do where there are none. Raises: FolioError."""
    import torch

    has_gpu = torch.cuda.is_available()
    for name in names:
        if WORKS[name].on_gpu and not has_gpu:
            raise FolioError(f"--work={name} needs a CUDA GPU, and PyTorch sees none on this machine; leave it out")
    return [work for work in WORKS.values() if work.name in names or (not names and (has_gpu or not work.on_gpu))]


def check_overrides(overrides: Sequence[str], works: Sequence[str]) -> None:
    """Whether they are keys and values, and fit the works. Raises: FolioError."""
    for words in (SAME_FUNCTION, *(WORKS[name].overrides for name in works)):
        checked([*words, *overrides])


def present(report: Report, output: Path | None, plots: Path | None) -> None:
    """Print the tables, and write the files that were asked for."""
    # Only now what takes long to import.
    from benchmarks.report.tables import print_report

    print_report(report, Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH))
    if output is not None:
        output.write_text(report.to_json(), encoding="utf-8")
    if plots is not None:
        from benchmarks.report.plots import write_plots

        print(*write_plots(report, plots), sep="\n")


def measure(
    parts: Sequence[str], works: Sequence[Work], recipes: Sequence[str], options: Options, report: Report
) -> None:
    """All parts, one after the other, into the report."""
    import torch

    from benchmarks.parts import hardware as machine
    from benchmarks.parts import operations as micro
    from benchmarks.parts.generation import measure_generation
    from benchmarks.parts.scaling import measure_scaling
    from benchmarks.parts.startup import measure_startup
    from benchmarks.parts.training import measure_works

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    report.machine = machine.describe_machine(options.threads)
    if "hardware" in parts or "step" in parts:
        report.series += machine.hardware(options.rounds, options.say)
    if TRAINING.intersection(parts):
        measure_works(works, parts, options, report)
    for name, short in (("data", micro.data), ("loss", micro.loss)):
        if name in parts:
            options.say(name)
            report.series += short(options.rounds)
    if "prepare" in parts:
        from benchmarks.parts.preparation import measure_preparing

        data_dir = Path(options.compose(SAME_FUNCTION).paths.data_dir)
        report.series += measure_preparing(options.rounds, data_dir, options.say)
    if "generation" in parts:
        measure_generation(options, report)
    if "startup" in parts:
        measure_startup(options, Path(options.compose(SAME_FUNCTION).paths.data_dir), ROOT, report)
    if "scaling" in parts:
        measure_scaling(options, report)
    if "quality" in parts:
        measure_quality(recipes, options, report)


def composed(overrides: Sequence[str]) -> RunConfig:
    """A config as train.py would have it, with its data prepared."""
    config = checked(overrides)
    data = prepared_data(config)
    config = fill_vocab_size(config, data.tokenizer.vocab_size)
    check_split_lengths(config, data.train.info.n_tokens, data.val.info.n_tokens)
    return config


def checked(overrides: Sequence[str]) -> RunConfig:
    """The config of these overrides. Raises: FolioError, and what Hydra raises."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("train", list(overrides)))
    config = validate(cast(dict[str, Any], values))
    check_config(config)
    return config


if __name__ == "__main__":
    run_script(main)
