"""Measure a trained model again: python scripts/evaluate.py outputs/<run> --split val"""

from folio.runtime.startup import prepare_process

if __name__ == "__main__":  # before the imports, which take a second
    prepare_process()

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from folio.cli.corpus import check_data, reopen_data, with_data_path
from folio.cli.options import Accelerator, Quantization
from folio.cli.resume import check_same_text
from folio.cli.scripts import run_script
from folio.config.checks import check_split_length
from folio.config.run import RunConfig
from folio.config.updates import with_context_length
from folio.data.prepared import PreparedData, TokenSplit
from folio.runs.description import config_beside
from folio.runs.folders import find_checkpoint
from folio.runs.test_looks import RECORD, check_recordable, record_look
from folio.runtime.errors import FolioError
from folio.runtime.files import expand_home


class Split(StrEnum):
    """The part of the data."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


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
    device: Annotated[
        Accelerator | None, typer.Option(help="The device, if not that of training; in its usual precision.")
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
    Each look at the test split is recorded in the run folder, in test.jsonl, and report.py says how many there were.
    """
    if context_length is not None and context_length < 1:
        raise FolioError(f"--context-length={context_length} must be 1 or more")
    path = find_checkpoint(run, output_dir, checkpoint)
    beside = config_beside(path)
    if context_length is not None and beside is not None:
        with_context_length(beside, context_length)
    run_folder = path.parent.parent if (path.parent.parent / "config.yaml").is_file() else None
    if split is Split.TEST:
        if beside is not None and beside.data.has_test is False:
            raise no_test_split(beside)
        if run_folder is not None:
            check_recordable(run_folder)

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
    trainer = config.trainer
    if device not in (None, trainer.accelerator):
        trainer = trainer.model_copy(update={"accelerator": device.value, "precision": "auto"})
    used = resolve_device(trainer, option="--device")
    if quantize is not None:
        try:
            check_int8(trained.model)
        except ValueError as error:
            raise FolioError(f"--quantize={quantize}: {error}") from None
    data = reopen_data(trained, data_dir)
    if data_path is not None:
        check_same_text(path.parent.parent, data.train.info.source_sha256, f"--data-path={data_path}")
    check_data(config, data)
    tokens = choose_split(config, data, split)
    objective = build_objective(config, data)
    started = time.perf_counter()
    with used.autocast():
        model = trained.model.to(used.torch_device)
        metrics = evaluate(model, objective.validation(tokens), used.torch_device)
    rounded = {}
    if quantize is not None:
        rounded = evaluate(quantize_int8(model.cpu()), objective.validation(tokens), torch.device("cpu"))
    look = None
    if split is Split.TEST:
        look = f"not recorded: {path} is in no run folder"
        if run_folder is not None:
            options = {"context_length": context_length} if context_length is not None else {}
            n_looks = record_look(
                run_folder, describe_look(path, trained.step, tokens) | options | {"metrics": metrics}
            )
            look = f"look {n_looks} at the test split of this run, recorded in {run_folder / RECORD}"
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
    if look is not None:
        print(f"test             {look}")
    if split is Split.VAL and trained.val and context_length is None:
        logged = trained.val["loss_nats"]
        difference = abs(metrics["loss_nats"] - logged)
        print(f"training logged  {logged:.6f} nats: {'the same' if difference == 0 else f'{difference:.2e} apart'}")


def choose_split(config: RunConfig, data: PreparedData, split: Split) -> TokenSplit:
    """Return the split to measure. Raises: FolioError if there is none of that name, or it is too short."""
    if split is not Split.TEST:
        return data.train if split is Split.TRAIN else data.val
    if data.open_test is None:
        raise no_test_split(config)
    test = data.open_test()
    check_split_length(config, "test", test.info.n_tokens)
    return test


def no_test_split(config: RunConfig) -> FolioError:
    """Return the error of a corpus that has only two splits."""
    name = config.data.name
    remedies = {
        "tiny_shakespeare": "train with data=tiny_shakespeare_dev, whose test split is this text's validation split",
        "prepared": "prepare the corpus with one, by data.test_fraction=0.1",
        "mixture": "give each of data.parts one, by its key test_fraction",
    }
    remedy = remedies.get(name, "train with one, by data.test_fraction=0.1")
    return FolioError(f"--split=test: data={name} of this run has no test split; {remedy}")


def describe_look(checkpoint: Path, step: int, test: TokenSplit) -> dict[str, Any]:
    """Return what is recorded of a look besides its figures."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": checkpoint.name,
        "step": step,
        "tokens_sha256": test.info.tokens_sha256,
    }


def print_metrics(metrics: dict[str, float], rounded: dict[str, float], quantize: Quantization | None) -> None:
    """Print the metrics of a model, and those with rounded weights."""
    from folio.objectives.metrics import format_rows

    for name, value in format_rows(metrics):
        print(f"{name:<16} {value}")
    for name, value in format_rows(rounded):
        print(f"{f'{quantize} {name}':<21} {value}")


if __name__ == "__main__":
    run_script(main)
