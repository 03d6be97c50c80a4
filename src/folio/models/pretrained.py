"""GPT-2's weights from Hugging Face's folders into our GPT, and back.

    model = load_gpt2("gpt2")     # what GPT2LMHeadModel.save_pretrained wrote, or the files of the hub
    save_gpt2(model, "mine")      # what GPT2LMHeadModel.from_pretrained loads

Both compute the same logits there and here. `folio.models.gpt2_format` knows the names and shapes.
"""

import json
import os
import shutil
import uuid
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from folio.models.gpt import GPT
from folio.models.gpt2_format import (
    PREFIX,
    GPT2FormatError,
    check_shapes,
    check_target,
    gpt2_config_json,
    not_floats,
    read_gpt2_config,
    short_names,
    unreadable,
    weight_files,
    weights_of,
)
from folio.models.torch_files import check_archive, check_substance
from folio.models.transformer_config import TransformerConfig


def load_gpt2(
    folder: str | Path,
    *,
    context_length: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float | None = None,
) -> GPT:
    """The GPT-2 in a folder, in float32 on the CPU, in training mode like any new model.

    A context_length below the folder's n_positions keeps the first positions. Everything is checked before a weight
    is used, and nothing in the files is executed.

    Raises: GPT2FormatError naming file, tensor and remedy.
    """
    folder = Path(folder)
    source = read_gpt2_config(folder)
    config = replace(
        source,
        context_length=context_length or source.context_length,
        dropout=dropout,
        attention_dropout=attention_dropout,
    )
    if config.context_length > source.context_length:
        raise GPT2FormatError(
            f"context_length={context_length} is longer than the {source.context_length} positions of {folder}; "
            f"use at most {source.context_length}"
        )
    found = read_weights(folder, source)
    # Copied, for the tensors may lie in the file still; one after the other, for a large model is there only once.
    state = {}
    for weight in weights_of(source):
        tensor = found.pop(weight.name)
        tensor = tensor.T if weight.transposed else tensor
        state[weight.parameter] = tensor.to(torch.float32).clone(memory_format=torch.contiguous_format)
    positions = "positional_encoding.embedding.weight"
    state[positions] = state[positions][: config.context_length].clone()
    return _with_weights(config, state)


def _with_weights(config: TransformerConfig, state: dict[str, Tensor]) -> GPT:
    """A GPT of these tensors, without drawing others first."""
    with torch.device("meta"):
        model = GPT(config)
    if config.tie_weights:
        state["output.weight"] = state["token_embedding.weight"]
    model.load_state_dict(state, assign=True)
    if config.tie_weights:
        model.output.weight = model.token_embedding.weight
    return model


def read_weights(folder: Path, config: TransformerConfig) -> dict[str, Tensor]:
    """Name without prefix -> tensor as it lies in the files, all of a GPT-2 of this size. Raises: GPT2FormatError."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for name, tensor in _read_file(file).items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise not_floats(file, name, tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__)
            tensors[name] = tensor
    try:
        check_substance(tensors)
    except ValueError as error:
        raise GPT2FormatError(f"{folder}: {error}; choose another folder") from None
    found = {short: tensors[name] for short, name in short_names(tensors, folder).items()}
    check_shapes({name: tuple(tensor.shape) for name, tensor in found.items()}, config, folder)
    if config.tie_weights and not torch.equal(found.get("lm_head.weight", found["wte.weight"]), found["wte.weight"]):
        raise GPT2FormatError(
            f"{folder}: lm_head.weight differs from wte.weight, though config.json ties them; "
            "set tie_word_embeddings to false there, or remove lm_head.weight"
        )
    return found


def _read_file(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # weights_only: a pickle may hold any program, of which this runs none. Files from before torch 1.6 are no zip.
        is_zip = zipfile.is_zipfile(file)
        if is_zip:
            check_archive(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch raises half a dozen types for damaged and foreign files
        raise unreadable(file, error) from None
    if not isinstance(tensors, dict):
        raise GPT2FormatError(f"{file} holds {type(tensors).__name__} and no names of tensors; choose another folder")
    return {str(name): tensor for name, tensor in tensors.items()}


def save_gpt2(model: GPT, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write config.json and model.safetensors; biases that the model lacks are zeros, which is the same function.

    The folder appears whole or not at all. With overwrite, an existing one gets both files anew and keeps the rest;
    there config.json is missing until all is written.

    Raises: GPT2FormatError where GPT-2's format cannot hold the model, or the folder is not empty; OSError.
    """
    folder = Path(folder)
    values = gpt2_config_json(model.config)
    check_target(folder, overwrite)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    draft.mkdir()
    names = ("model.safetensors", "config.json")
    try:
        (draft / names[1]).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        _write_weights(model, draft / names[0])
        shutil.copymode(draft / names[1], draft / names[0])  # safetensors lets nobody else read what it writes
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
    from safetensors.torch import save_file

    parameters = dict(model.named_parameters())
    tensors = {}
    for weight in weights_of(model.config):
        parameter = parameters.get(weight.parameter)
        tensor = torch.zeros(weight.shape) if parameter is None else parameter.detach().to("cpu", torch.float32)
        if weight.transposed:
            tensor = tensor.T
        name = weight.name if weight.name == "lm_head.weight" else PREFIX + weight.name
        tensors[name] = tensor.contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def _flush(path: Path) -> None:
    """Let the bytes reach the disk before the rename does."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
