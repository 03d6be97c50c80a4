"""Measure a trained model again: python scripts/evaluate.py outputs/<run> --split val"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import json
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from folio.cli.corpus import check_data, reopen_data, with_data_path
from folio.cli.options import Quantization
from folio.cli.resume import check_same_text
from folio.cli.scripts import run_script
from folio.config.updates import with_context_length
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runtime.errors import FolioError
from folio.runtime.files import expand_home


class Split(StrEnum):
    """The part of the data."""

    TRAIN = "train"
    VAL = "val"


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    split: Annotated[Split, typer.Option(help="The part of the data.")] = Split.VAL,
    checkpoint: Annotated[
        str, typer.Option(help="The checkpoint of a run folder: best, last, epoch=N or step=N.")
    ] = "best",
    context_length: Annotated[
        int | None,
        typer.Option(help="Tokens in a window, if not as in training; longer windows test the positional encoding."),
    ] = None,
    quantize: Annotated[
        Quantization | None, typer.Option(help="Also measure the model with rounded weights, on the CPU.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    output_dir: Annotated[Path, typer.Option(help="Folder in which 'latest' is searched.")] = Path("outputs"),
    data_dir: Annotated[Path | None, typer.Option(help="Folder of prepared data; by default this checkout's.")] = None,
    data_path: Annotated[
        str | None, typer.Option(help="Where the text of data.path lies now, if it has moved. It must be the same.")
    ] = None,
) -> None:
    """Print loss, perplexity, bits per byte and accuracy over a whole split, with every target counted once.

    On the device and in the precision of training, the validation loss is exactly the one that training logged.
    """
    if context_length is not None and context_length < 1:
        raise FolioError(f"--context-length={context_length} must be 1 or more")
    path = find_checkpoint(run, output_dir, checkpoint)
    beside = config_beside(path)
    if context_length is not None and beside is not None:
        with_context_length(beside, context_length)

    # Imported only now, because torch takes seconds.
    import torch

    from folio.distributed.devices import resolve_device
    from folio.models.quantization import check_int8, quantize_int8
    from folio.objectives.evaluation import evaluate
    from folio.objectives.objective import build_objective
    from folio.runs.checkpoints import load_checkpoint

    trained = load_checkpoint(path, "cpu")
    if data_path is not None:
        trained = replace(trained, config=with_data_path(trained.config, expand_home(data_path)))
    config = trained.config if context_length is None else with_context_length(trained.config, context_length)
    device = resolve_device(config.trainer)
    if quantize is not None:
        try:
            check_int8(trained.model)
        except ValueError as error:
            raise FolioError(f"--quantize={quantize}: {error}") from None
    data = reopen_data(trained, data_dir)
    if data_path is not None:
        check_same_text(path.parent.parent, data.train.info.source_sha256, f"--data-path={data_path}")
    check_data(config, data)
    tokens = data.train if split is Split.TRAIN else data.val
    objective = build_objective(config, data)
    started = time.perf_counter()
    with device.autocast():
        model = trained.model.to(device.torch_device)
        metrics = evaluate(model, objective.validation(tokens), device.torch_device)
    rounded = {}
    if quantize is not None:
        rounded = evaluate(quantize_int8(model.cpu()), objective.validation(tokens), torch.device("cpu"))
    if as_json:
        values = {"checkpoint": str(path), "step": trained.step, "split": split.value, **metrics}
        print(json.dumps(values | ({quantize.value: rounded} if quantize else {})))
        return
    print(f"checkpoint       {path}, step {trained.step}")
    counted = objective.bits_per_byte_info(tokens)
    of_them = "" if counted in (None, tokens.info) else f", {counted.n_tokens:,} of them in completions"
    n_tokens = f"{tokens.info.n_tokens:,} tokens{of_them}"
    print(f"split            {split.value}, {n_tokens}, {time.perf_counter() - started:.1f} s")
    print_metrics(metrics, rounded, quantize)
    if split is Split.VAL and trained.val and context_length is None:
        logged = trained.val["loss_nats"]
        difference = abs(metrics["loss_nats"] - logged)
        print(f"training logged  {logged:.6f} nats: {'the same' if difference == 0 else f'{difference:.2e} apart'}")


def print_metrics(metrics: dict[str, float], rounded: dict[str, float], quantize: Quantization | None) -> None:
    """Print the metrics of a model, and those with rounded weights."""
    from folio.objectives.metrics import format_rows

    for name, value in format_rows(metrics):
        print(f"{name:<16} {value}")
    for name, value in format_rows(rounded):
        print(f"{f'{quantize} {name}':<21} {value}")


if __name__ == "__main__":
    run_script(main)
