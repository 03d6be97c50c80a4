"""Measure a trained model again: python scripts/evaluate.py outputs/<run> --split val"""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from folio.cli import one_line_errors, prepared_data
from folio.data.prepare import PreparedData
from folio.errors import FolioError
from folio.runs import Which, find_checkpoint


class Split(StrEnum):
    TRAIN = "train"
    VAL = "val"


@one_line_errors
def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a checkpoint file, or 'latest'.")],
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.VAL,
    checkpoint: Annotated[Which, typer.Option(help="Which one of a run folder.")] = Which.BEST,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    output_dir: Annotated[Path, typer.Option(help="Where 'latest' looks.")] = Path("outputs"),
    data_dir: Annotated[Path | None, typer.Option(help="Prepared data, if not where training had it.")] = None,
) -> None:
    """Loss, perplexity, bits per byte and accuracy over a whole split, every target once.

    On the device and in the precision of training, where they are there, the validation loss is exactly the one
    that training logged for the checkpoint.
    """
    path = find_checkpoint(run, output_dir, checkpoint)

    # Only now torch, whose import takes seconds.
    from folio.data.loaders import validation_loader
    from folio.training.checkpoint import load_trained
    from folio.training.devices import resolve_device
    from folio.training.evaluation import evaluate, metrics_from

    trained = load_trained(path, "cpu")
    config = trained.config
    device = resolve_device(config.trainer)
    data = data_of(trained, data_dir)
    file = data.train if split is Split.TRAIN else data.val
    loader = validation_loader(file.tokens, config.model.context_length, config.training.sequences_at_once)
    started = time.perf_counter()
    with device.autocast():
        sums = evaluate(trained.model.to(device.torch_device), loader, device.torch_device)
    metrics = metrics_from(sums, file.info.n_tokens / file.info.n_bytes)
    if as_json:
        print(json.dumps({"checkpoint": str(path), "step": trained.step, "split": split.value, **metrics}))
        return
    print(f"checkpoint       {path}, step {trained.step}")
    print(f"split            {split.value}, {file.info.n_tokens:,} tokens, {time.perf_counter() - started:.1f} s")
    print(f"loss             {metrics['loss_nats']:.6f} nats")
    print(f"perplexity       {metrics['perplexity']:.2f}")
    print(f"bits per byte    {metrics['bits_per_byte']:.4f}")
    print(f"accuracy         {metrics['accuracy']:.4f}")
    if split is Split.VAL and trained.val:
        logged = trained.val["loss_nats"]
        difference = abs(metrics["loss_nats"] - logged)
        print(f"training logged  {logged:.6f} nats: {'the same' if difference == 0 else f'{difference:.2e} apart'}")


def data_of(trained: Any, data_dir: Path | None) -> PreparedData:
    """The data that the model was trained on. Raises: FolioError where it would not be the same tokens."""
    data = prepared_data(trained.config, data_dir)
    if data.tokenizer.state() != trained.tokenizer.state():
        raise FolioError(
            f"data.path={trained.config.data.path} gives another tokenizer than the checkpoint's: the text has changed "
            "since training; bring back the old text, or train again"
        )
    return data


if __name__ == "__main__":
    typer.run(main)
