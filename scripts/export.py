"""Export a trained model: python scripts/export.py latest my_gpt2, or latest page.html --format page"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.page import PageRequest, export_page
from folio.cli.scripts import run_script
from folio.models import TransformerConfig
from folio.models.gpt2_format import END_OF_TEXT, GPT2FormatError, check_export_folder, gpt2_config_json
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError
from folio.runtime.files import check_output_folder


class Format(StrEnum):
    """The format of an exported model."""

    HUGGINGFACE = "huggingface"
    PAGE = "page"


class Weights(StrEnum):
    """The type of the weights in a page."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A new folder for config.json and model.safetensors; a file for a page."),
    ],
    format_: Annotated[
        Format, typer.Option("--format", help="huggingface: GPT-2's; page: one HTML file that shows the model at work.")
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
) -> None:
    """Write a trained model for other programs: in Hugging Face's GPT-2 format, or as a page for a browser."""
    if format_ is Format.PAGE:
        request = PageRequest(
            run=run,
            page=folder,
            checkpoints=[checkpoint] if checkpoints is None else checkpoints.split(","),
            beside=[] if other is None else [other],
            weights=weights.value,
            force=force,
            output_dir=output_dir,
            data_dir=data_dir,
        )
        print("\n".join(export_page(request)))
        return
    for option, value in (("checkpoints", checkpoints), ("beside", other)):
        if value is not None:
            raise FolioError(f"--{option}={value} is for pages; add --format page, or leave it out")
    if weights is not Weights.FP32:
        raise FolioError(f"--weights={weights} is for pages; add --format page, or leave it out")
    path = find_checkpoint(run, output_dir, checkpoint)
    try:
        check_export_folder(folder, force)
    except GPT2FormatError as error:
        raise FolioError(f"DIR={folder}: {error}") from None
    check_output_folder(folder, "DIR")
    if beside := config_beside(path):
        check_format(path, beside.transformer_config(beside.model.vocab_size or 0))

    # Only now torch, whose import takes seconds.
    from folio.models import GPT
    from folio.models.pretrained import save_gpt2
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, "cpu")
    check_format(path, trained.model.config)
    assert isinstance(trained.model, GPT)
    try:
        save_gpt2(trained.model, folder, overwrite=force)
    except OSError as error:
        raise FolioError(f"DIR={folder}: cannot write there ({error.strerror}); name another folder") from None
    print(
        f"""\
checkpoint       {path}, step {trained.step}
written          {folder}/config.json, {folder}/model.safetensors: {trained.model.n_parameters:,} parameters
tokenizer        {describe_tokenizer(trained.tokenizer.name)}
load it with

    from transformers import GPT2LMHeadModel
    model = GPT2LMHeadModel.from_pretrained({str(folder)!r})"""
    )


def check_format(checkpoint: Path, config: TransformerConfig) -> None:
    """Raises: FolioError if the format cannot hold such a model."""
    try:
        gpt2_config_json(config)
    except GPT2FormatError as error:
        raise FolioError(f"{checkpoint}: {error}") from None


def describe_tokenizer(name: str) -> str:
    """Say how to get the tokenizer that the model was trained with, since it is not exported."""
    if name in ("gpt2", "r50k_base"):
        return f"GPT-2's, not written: GPT2Tokenizer.from_pretrained('gpt2'); a text ends with id {END_OF_TEXT}"
    if name in ("p50k_base", "p50k_edit", "cl100k_base"):
        return f"{name}, not written: tiktoken.get_encoding({name!r})"
    return f"{name}, not written: its symbols are in tokenizer.json of the run folder"


if __name__ == "__main__":
    run_script(main)
