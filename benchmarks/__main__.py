"""Measure speed and memory side by side: python -m benchmarks [PART ...] [--nanogpt PATH]

docs/performance.md describes what each part measures, and the results.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import hydra
import typer
from omegaconf import OmegaConf
from rich.console import Console

from benchmarks.contenders.selection import PEERS, choose_peers
from benchmarks.options import Options, ProgressLine
from benchmarks.parts.quality import COMPARISONS, measure_quality
from benchmarks.parts.training import TRAINING_PARTS, measure_workloads
from benchmarks.report.results import BenchmarkReport
from benchmarks.workloads import SAME_FUNCTION, WORKLOADS, Workload
from folio.cli.compose import validate
from folio.cli.corpus import prepare_data
from folio.cli.plugins import without_targets
from folio.cli.scripts import run_script
from folio.config.checks import check_config, check_split_lengths
from folio.config.run import RunConfig
from folio.config.updates import with_vocab_size
from folio.runtime.errors import FolioError
from folio.runtime.terminal import did_you_mean

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"

PLAIN_WIDTH = 170
"""Columns of the tables when the output is not a terminal."""

PARTS = {
    "hardware": "fastest matrix products and copies of this machine",
    "step": "a training step of Folio and its peers, with hardware",
    "overhead": "train.py against a bare loop, on the workloads a and b",
    "memory": "peak memory of the same processes",
    "data": "a batch: one gather against a loop",
    "loss": "the loss over 50,257 symbols: in chunks against all logits at once",
    "layers": "dropout, RMS norm and attention windows on a CPU: Folio's against torch's",
    "generation": "GPT-2 small generates 64 and 256 tokens",
    "startup": "time to the first error, token and step",
    "scaling": "a step against context, batch, vocabulary, depth and corpus",
    "busy": "a training step beside other busy processes, by the threads and how they wait (three minutes)",
    "prepare": "a corpus and a text into tokens, against tiktoken alone (two minutes)",
    "quality": "which recipe reaches a validation loss first (up to two hours)",
}
PART_HELP = "; ".join(f"{name}: {summary}" for name, summary in PARTS.items())

ONLY_BY_NAME = ("busy", "prepare", "quality")
"""Parts that take long, and are measured only if named."""


def main(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PART...", help=f"{PART_HELP}. Default: all but the last three."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Number of rounds; each contender has one turn in each.")] = 3,
    nanogpt: Annotated[Path | None, typer.Option(help="Folder of a checkout of nanoGPT to compare with.")] = None,
    peers: Annotated[
        str | None, typer.Option(help=f"Peers, separated by commas: {', '.join(PEERS)}. Default: all available.")
    ] = None,
    work: Annotated[
        str | None,
        typer.Option(
            help=f"Workloads, separated by commas: {', '.join(WORKLOADS)}. Default: all (e and f need a GPU)."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help=f"Recipes for quality, separated by commas: {', '.join(COMPARISONS)}. Default: both."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="An override of train.py for every run; can be repeated.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each contender. Default: PyTorch's choice.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write all results to this JSON file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write plots into this folder.")] = None,
) -> None:
    """Time Folio and other programs in turn, and show medians, ranges and ratios.

    Each contender is a process of its own that waits while another works. Their times count only if they compute the
    same losses from the same batches. All parts but busy, prepare and quality take about ten minutes on two cores.
    """
    chosen = choose(parts or [], PARTS, "part") or [part for part in PARTS if part not in ONLY_BY_NAME]
    workload_names = choose(work.split(",") if work else [], WORKLOADS, "--work")
    recipes = choose(recipe.split(",") if recipe else [], COMPARISONS, "--recipe") or list(COMPARISONS)
    for option, value in (("rounds", rounds), ("threads", threads)):
        if value is not None and value < 1:
            raise FolioError(f"--{option}={value} must be 1 or more")
    check_output_paths(output, plots)
    progress = ProgressLine()
    options = Options(rounds, choose_peers(peers, nanogpt), compose, threads, tuple(overrides or ()), progress)
    check_overrides(
        options.overrides, workload_names or list(WORKLOADS) if {*TRAINING_PARTS}.intersection(chosen) else []
    )

    report = BenchmarkReport({})
    try:
        measure(chosen, available_workloads(workload_names, options.overrides), recipes, options, report)
    finally:  # after an error or Ctrl-C, too: what has been measured took long enough
        progress.clear()
        if report.series:
            present(report, output, plots)


def choose(names: list[str], known: Iterable[str], option: str) -> list[str]:
    """Return the names without duplicates, in the order of `known`. Raises: FolioError for an unknown name."""
    known = list(known)
    for name in names:
        if name not in known:
            raise FolioError(f"{option}={name} is not one of {', '.join(known)}{did_you_mean(name, known)}")
    return [name for name in known if name in names]


def check_output_paths(output: Path | None, plots: Path | None) -> None:
    """Check before measuring that the results can be written. Raises: FolioError."""
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise FolioError(f"--output={output} cannot be written: it is a folder, or its folder is missing; name a file")
    if plots is not None and plots.exists() and not plots.is_dir():
        raise FolioError(f"--plots={plots} is a file; name a folder")


def available_workloads(names: list[str], overrides: Sequence[str]) -> list[Workload]:
    """Return the named workloads, or without names all that this machine can run. Raises: FolioError."""
    import torch

    has_gpu = torch.cuda.is_available()
    moved = any(override.startswith(("trainer=", "trainer.accelerator=")) for override in overrides)
    for name in names:
        if WORKLOADS[name].on_gpu and not (has_gpu or moved):
            raise FolioError(
                f"--work={name} needs a CUDA GPU, and PyTorch finds none on this machine; leave it out, or move it to "
                "the CPU with --set trainer.accelerator=cpu"
            )
    if names:
        return [WORKLOADS[name] for name in names]
    return [workload for workload in WORKLOADS.values() if has_gpu or not workload.on_gpu]


def check_overrides(overrides: Sequence[str], workload_names: Sequence[str]) -> None:
    """Check that the overrides are valid, also together with the workloads. Raises: FolioError."""
    for base in (SAME_FUNCTION, *(WORKLOADS[name].overrides for name in workload_names)):
        compose_checked([*base, *overrides])


def present(report: BenchmarkReport, output: Path | None, plots: Path | None) -> None:
    """Print the tables, and write the requested files."""
    from benchmarks.report.tables import print_report

    print_report(report, Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH))
    if output is not None:
        output.write_text(report.to_json(), encoding="utf-8")
    if plots is not None:
        from benchmarks.report.plots import write_plots

        print(*write_plots(report, plots), sep="\n")


def measure(
    parts: Sequence[str],
    workloads: Sequence[Workload],
    recipes: Sequence[str],
    options: Options,
    report: BenchmarkReport,
) -> None:
    """Measure the parts, one after another, and add their series to the report."""
    import torch

    from benchmarks.parts.busy import measure_busy
    from benchmarks.parts.generation import measure_generation
    from benchmarks.parts.hardware import describe_machine, measure_hardware
    from benchmarks.parts.operations import measure_data, measure_layers, measure_loss
    from benchmarks.parts.preparation import measure_preparation
    from benchmarks.parts.scaling import measure_scaling
    from benchmarks.parts.startup import measure_startup

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    report.machine = describe_machine(options.threads)
    if "hardware" in parts or "step" in parts:
        measure_hardware(options, report)
    measure_workloads(workloads, parts, options, report)
    for name, measure_part in {
        "data": measure_data,
        "loss": measure_loss,
        "layers": measure_layers,
        "busy": measure_busy,
        "prepare": measure_preparation,
        "generation": measure_generation,
        "startup": measure_startup,
        "scaling": measure_scaling,
    }.items():
        if name in parts:
            measure_part(options, report)
    if "quality" in parts:
        measure_quality(recipes, options, report)


def compose(overrides: Sequence[str]) -> RunConfig:
    """Return the config that train.py would use, with its data prepared."""
    config = compose_checked(overrides)
    data = prepare_data(config)
    config = with_vocab_size(config, data.tokenizer.vocab_size)
    check_split_lengths(config, data.train.info.n_tokens, data.val.info.n_tokens)
    return config


def compose_checked(overrides: Sequence[str]) -> RunConfig:
    """Return the config of these overrides. Raises: FolioError, or Hydra's own errors."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("train", list(overrides)))
    config = validate(without_targets(cast(dict[str, Any], values), CONF_DIR))
    check_config(config)
    return config


if __name__ == "__main__":
    run_script(main)
