"""Load models of transformers' formats into Folio's GPT, and save them back: GPT-2, Llama, Qwen3.

    model = load_pretrained("folder")     # written by save_pretrained of transformers, or downloaded from the hub
    save_pretrained(model, "mine")        # AutoModelForCausalLM.from_pretrained("mine") loads it

The logits are equal in both. `folio.models.formats` has the names and shapes, and checks them.
"""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from folio.models.formats.choice import FormatPlan, choose_format
from folio.models.formats.equivalents import EMBEDDING, POSITIONS
from folio.models.formats.fields import FormatError
from folio.models.formats.folder import read_config, read_weights
from folio.models.formats.format import Format
from folio.models.gpt import GPT
from folio.models.rotary_scaling import RotaryScaling
from folio.models.transformer_config import TransformerConfig
from folio.runtime.files import draft_folder

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def load_pretrained(
    folder: str | Path,
    *,
    context_length: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float | None = None,
    feed_forward_dropout: float = 0.0,
    rotary_scaling: RotaryScaling | None = None,
) -> GPT:
    """Load the model in a folder, in float32 on the CPU and in training mode, like any new model.

    Another context_length crops learned positions; encodings without an end can be made longer, too, and rotary ones
    be stretched by a rotary_scaling. Everything is checked before a weight is used, and nothing in the files is
    executed.

    Raises: FormatError naming the file, the tensor and the remedy.
    """
    folder = Path(folder)
    format_, stored = read_config(folder)
    config = replace(
        stored,
        context_length=context_length or stored.context_length,
        dropout=dropout,
        attention_dropout=attention_dropout,
        feed_forward_dropout=feed_forward_dropout,
        rotary_scaling=rotary_scaling or stored.rotary_scaling,
    )
    if stored.max_positions is not None and config.context_length > stored.max_positions:
        raise FormatError(
            f"context_length={context_length} is longer than the {stored.max_positions} positions of {folder}; "
            f"use at most {stored.max_positions}"
        )
    state = _read_state(folder, format_, stored)
    if POSITIONS in state:
        state[POSITIONS] = state[POSITIONS][: config.context_length].clone()
    return _build_from(config, state)


def _read_state(folder: Path, format_: Format, config: TransformerConfig) -> dict[str, Tensor]:
    """Return Folio's parameters by name, in memory of their own."""
    tensors = read_weights(folder, format_, config)  # first, because config.json may claim more layers than there are
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in GPT(config).named_parameters()}
    state: dict[str, Tensor] = {}
    filled: set[tuple[str, str]] = set()
    # Copied, since the tensors may still lie in the file; one at a time, so that memory holds a large model once.
    for weight in format_.weights(config):
        tensor = tensors.pop(weight.name)
        tensor = tensor.T if weight.transposed else tensor
        if not tensor.isfinite().all():
            raise FormatError(f"{folder}: {weight.name} holds NaN or infinite values; choose another folder")
        if weight.parameter not in state:
            state[weight.parameter] = torch.empty(shapes[weight.parameter])
        parameter, place = state[weight.parameter], (weight.parameter, str(weight.rows))
        if place not in filled:
            parameter[weight.rows] = tensor.to(torch.float32)
            filled.add(place)
        elif not torch.equal(parameter[weight.rows], tensor.to(torch.float32)):
            raise FormatError(
                f"{folder}: {weight.name} differs from its twin, and Folio has this architecture only where they are "
                "equal (a squared ReLU); choose another folder"
            )
    return state


def _build_from(config: TransformerConfig, state: dict[str, Tensor]) -> GPT:
    """Build a GPT from these tensors without initializing others first."""
    with torch.device("meta"):
        model = GPT(config)
    if config.ties_weights:
        state["output.weight"] = state[EMBEDDING]
    model.load_state_dict(state, assign=True)
    if config.ties_weights:
        model.output.weight = model.token_embedding.weight
    return model


def save_pretrained(model: GPT, folder: str | Path, *, end_of_text: int | None = None, overwrite: bool = False) -> None:
    """Write config.json and model.safetensors in the format that holds the model exactly.

    end_of_text is the id that begins and ends a text, if the tokenizer has one.

    A new folder appears complete or not at all. With overwrite, an existing folder gets both files and keeps its other
    files; config.json is missing there until all is written.

    Raises: FormatError if no format can hold the model, or the folder is not empty; OSError.
    """
    folder = Path(folder)
    plan = choose_format(model.config)
    check_export_folder(folder, overwrite)
    with draft_folder(folder, last=CONFIG, overwrite=overwrite) as draft:
        write_pretrained(model, plan, draft, end_of_text)


def check_export_folder(folder: Path, overwrite: bool) -> None:
    """Raises: FormatError if writing there would mix with, or replace, files that exist."""
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise FormatError(f"{folder} is not empty; name a new folder, or replace the model in it with --force")


def write_pretrained(model: GPT, plan: FormatPlan, folder: Path, end_of_text: int | None) -> None:
    """Write both files into a folder, according to the plan that `choose_format` made for this model.

    Raises: OSError.
    """
    values = plan.format.write_config(plan.config, end_of_text)
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    _write_weights(format_tensors(model, plan), folder / WEIGHTS)
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors makes its files readable only by their owner


def format_tensors(model: GPT, plan: FormatPlan) -> dict[str, Tensor]:
    """Return the tensors of a file in the plan's format, by name."""
    state = {name: parameter.detach().to("cpu", torch.float32) for name, parameter in model.named_parameters()}
    config = model.config
    if config.ties_weights and not plan.config.ties_weights:
        state["output.weight"] = state[EMBEDDING]
    for step in plan.steps:
        state = step.weights(config, state)
        config = step.config(config)
    tensors = {}
    for weight in plan.format.weights(plan.config):
        parameter = state.get(weight.parameter)
        tensor = torch.zeros(weight.shape) if parameter is None else parameter[weight.rows]
        tensor = (tensor.T if weight.transposed else tensor).contiguous()
        # Parts of fused parameters are cloned, because safetensors refuses tensors that share memory.
        tensors[plan.format.full_name(weight.name)] = tensor if weight.rows == slice(None) else tensor.clone()
    return tensors


def _write_weights(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # which hides an OSError: "I/O error: File too large (os error 27)"
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
