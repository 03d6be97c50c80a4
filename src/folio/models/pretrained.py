"""Load GPT-2's weights from Hugging Face's folders into Folio's GPT, and save them back.

    model = load_gpt2("gpt2")     # a folder by GPT2LMHeadModel.save_pretrained, or the files of the hub
    save_gpt2(model, "mine")      # GPT2LMHeadModel.from_pretrained loads it

The logits are equal in both. `folio.models.gpt2_format` knows the names and shapes, and checks them.
"""

import json
import os
import re
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from folio.models.gpt import GPT
from folio.models.gpt2_format import (
    PREFIX,
    GPT2FormatError,
    check_export_folder,
    gpt2_config_json,
    gpt2_weights,
    read_gpt2_config,
    read_gpt2_weights,
)
from folio.models.transformer_config import TransformerConfig


def load_gpt2(
    folder: str | Path,
    *,
    context_length: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float | None = None,
    feed_forward_dropout: float = 0.0,
) -> GPT:
    """Load the GPT-2 in a folder, in float32 on the CPU and in training mode, like any new model.

    A context_length below the folder's n_positions keeps the first positions. Everything is checked before a weight
    is used, and nothing in the files is executed.

    Raises: GPT2FormatError naming the file, the tensor and the remedy.
    """
    folder = Path(folder)
    stored = read_gpt2_config(folder)
    config = replace(
        stored,
        context_length=context_length or stored.context_length,
        dropout=dropout,
        attention_dropout=attention_dropout,
        feed_forward_dropout=feed_forward_dropout,
    )
    if config.context_length > stored.context_length:
        raise GPT2FormatError(
            f"context_length={context_length} is longer than the {stored.context_length} positions of {folder}; "
            f"use at most {stored.context_length}"
        )
    tensors = read_gpt2_weights(folder, stored)
    # Copied, since the tensors may still lie in the file; one at a time, so that memory holds a large model once.
    state = {}
    for weight in gpt2_weights(stored):
        tensor = tensors.pop(weight.name)
        tensor = tensor.T if weight.transposed else tensor
        tensor = tensor.to(torch.float32).clone(memory_format=torch.contiguous_format)
        if not tensor.isfinite().all():
            raise GPT2FormatError(f"{folder}: {weight.name} holds NaN or infinite values; choose another folder")
        state[weight.parameter] = tensor
    positions = "positional_encoding.embedding.weight"
    state[positions] = state[positions][: config.context_length].clone()
    return _build_from(config, state)


def _build_from(config: TransformerConfig, state: dict[str, Tensor]) -> GPT:
    """Build a GPT from these tensors without initializing others first."""
    with torch.device("meta"):
        model = GPT(config)
    if config.ties_weights:
        state["output.weight"] = state["token_embedding.weight"]
    model.load_state_dict(state, assign=True)
    if config.ties_weights:
        model.output.weight = model.token_embedding.weight
    return model


def save_gpt2(model: GPT, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write config.json and model.safetensors; biases that the model lacks become zeros, which is the same function.

    A new folder appears complete or not at all. With overwrite, an existing folder gets both files and keeps its other
    files; config.json is missing there until all is written.

    Raises: GPT2FormatError if GPT-2's format cannot hold the model, or the folder is not empty; OSError.
    """
    folder = Path(folder)
    values = gpt2_config_json(model.config)
    check_export_folder(folder, overwrite)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    draft.mkdir()
    names = ("model.safetensors", "config.json")
    try:
        (draft / names[1]).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        _write_weights(model, draft / names[0])
        shutil.copymode(draft / names[1], draft / names[0])  # safetensors makes its files readable only by their owner
        for name in names:
            _flush(draft / name)
        if overwrite and folder.exists():
            (folder / names[1]).unlink(missing_ok=True)
            for name in names:
                os.replace(draft / name, folder / name)
        else:
            draft.rename(folder)
    finally:
        if draft.exists():
            for name in names:
                (draft / name).unlink(missing_ok=True)
            draft.rmdir()


def _write_weights(model: GPT, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    parameters = dict(model.named_parameters())
    tensors = {}
    for weight in gpt2_weights(model.config):
        parameter = parameters.get(weight.parameter)
        tensor = torch.zeros(weight.shape) if parameter is None else parameter.detach().to("cpu", torch.float32)
        if weight.transposed:
            tensor = tensor.T
        name = weight.name if weight.name == "lm_head.weight" else PREFIX + weight.name
        tensors[name] = tensor.contiguous()
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # which hides an OSError: "I/O error: File too large (os error 27)"
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def _flush(path: Path) -> None:
    """Write the bytes to the disk, before the rename reaches it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
