"""Export a trained model: python scripts/export.py latest my_model, or latest page.html --format page"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.page import PageRequest, export_page
from folio.cli.scripts import run_script
from folio.export.exporter import find_exporter
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError


class Format(StrEnum):
    """The format of an exported model."""

    HUGGINGFACE = "huggingface"
    GGUF = "gguf"
    PAGE = "page"


class Weights(StrEnum):
    """The type of the weights in a page."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder; a file for the other formats.")],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="huggingface: a folder for transformers; gguf: a file for llama.cpp; page: one HTML file that shows "
            "the model at work.",
        ),
    ] = Format.HUGGINGFACE,
    checkpoint: Annotated[
        str, typer.Option(help="Which checkpoint of a run folder: best, last, epoch=N or step=N.")
    ] = "best",
    checkpoints: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Several checkpoints, behind a slider of the page.")
    ] = None,
    other: Annotated[
        str | None, typer.Option("--beside", metavar="RUN", help="Another run, beside this one in the page.")
    ] = None,
    weights: Annotated[
        Weights, typer.Option(help="Type of the weights in the page; it says what rounding them costs.")
    ] = Weights.FP32,
    force: Annotated[bool, typer.Option("--force", help="Replace the files if they exist.")] = False,
    output_dir: Annotated[Path, typer.Option(help="The folder in which 'latest' looks for runs.")] = Path("outputs"),
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of prepared data, with which rounding is measured.")
    ] = None,
    data_path: Annotated[
        str | None, typer.Option(help="Where the text of data.path lies now, if it has moved. It must be the same.")
    ] = None,
) -> None:
    """Write a trained model for other programs, which then compute the same, or as a page for a browser."""
    if format_ is Format.PAGE:
        if checkpoints is not None and checkpoint != "best":
            raise FolioError(f"--checkpoint={checkpoint} and --checkpoints={checkpoints} exclude each other; give one")
        request = PageRequest(
            run=run,
            page=destination,
            checkpoints=[checkpoint] if checkpoints is None else checkpoints.split(","),
            beside=[] if other is None else [other],
            weights=weights.value,
            force=force,
            output_dir=output_dir,
            data_dir=data_dir,
            data_path=data_path,
        )
        print("\n".join(export_page(request)))
        return
    for option, value in (("checkpoints", checkpoints), ("beside", other)):
        if value is not None:
            raise FolioError(f"--{option}={value} is for pages; add --format page, or leave it out")
    if weights is not Weights.FP32:
        raise FolioError(f"--weights={weights} is for pages; add --format page, or leave it out")
    path = find_checkpoint(run, output_dir, checkpoint)
    exporter = find_exporter(format_.value)
    exporter.check_destination(destination, force)
    if beside := config_beside(path):
        exporter.check_run(beside)

    # Only now torch, whose import takes seconds.
    from folio.runs.checkpoints import load_checkpoint

    print(exporter.export(load_checkpoint(path, "cpu"), path, destination, force))


if __name__ == "__main__":
    run_script(main)
