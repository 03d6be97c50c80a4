"""Export to a GGUF file for llama.cpp and the programs built on it: weights and tokenizer in one file.

Sources: the specification of GGUF (ggml/docs/gguf.md), and llama.cpp's convert_hf_to_gguf.py.
"""

import math
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folio.config.run import RunConfig
from folio.export.gguf_tokenizer import VocabularyForLlamaCpp, check_tokenizer, vocabulary
from folio.export.huggingface import plan_export
from folio.models.formats.choice import FormatPlan
from folio.models.formats.fields import OneOf, Problem
from folio.models.formats.format import Format
from folio.models.formats.llama import LLAMA, QWEN3
from folio.models.formats.rope import Rope
from folio.models.rotary_scaling import RotaryScaling
from folio.models.transformer_config import TransformerConfig
from folio.runtime.errors import FolioError
from folio.runtime.files import UNFINISHED, check_output_folder

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from folio.runs.checkpoints import LoadedCheckpoint

SILU = OneOf("activation", "hidden_act", "silu", {"silu": "swiglu"})
"""llama.cpp computes no other activation in these architectures, whatever a file says."""


class RopeOfQwen3(Rope):
    """llama.cpp stretches the positions of a Qwen3 by YaRN only."""

    def problems(self, config: TransformerConfig) -> Iterator[Problem]:
        if config.rotary_scaling is not None and config.rotary_scaling.name != "yarn":
            yield Problem("rotary_scaling", config.rotary_scaling.name, None)


def formats() -> list[Format]:
    """Return the formats as llama.cpp has them. Its Qwen3 has neither biases nor windows."""
    llama = [SILU if part.options == SILU.options else part for part in LLAMA.fields]
    qwen3 = [
        SILU if part.options == SILU.options else RopeOfQwen3() if isinstance(part, Rope) else part
        for part in QWEN3.fields
        if not {"attention_bias", "attention_window"} & set(part.options)
    ]
    # Qwen3 first: with windows and biases, which neither has, a model with QK norm is as near to a Llama.
    return [replace(QWEN3, fields=qwen3), replace(LLAMA, fields=llama)]


def check_destination(file: Path, force: bool) -> None:
    """Raises: FolioError if the file exists, or cannot be written, or the package gguf is missing."""
    if find_spec("gguf") is None:
        raise FolioError("--format gguf needs the package gguf; install it with: pip install gguf")
    if file.is_dir():
        raise FolioError(f"DEST={file} is a folder; name a new file, such as {file / 'model.gguf'}")
    if file.exists() and not force:
        raise FolioError(f"DEST={file} exists; name a new file, or replace it with --force")
    check_output_folder(file.parent, "DEST")


def check_run(config: RunConfig) -> None:
    """Raises: FolioError if llama.cpp has no such model, or no such tokenizer."""
    plan_export(config.transformer_config(config.model.vocab_size or 1), formats(), "llama.cpp")
    check_tokenizer(config.tokenizer.name)


def export(trained: "LoadedCheckpoint", checkpoint: Path, file: Path, force: bool) -> str:
    """Write the file, verify what is in it, and return what to print. Raises: FolioError."""
    from folio.export.verification import verify_gguf
    from folio.models.gpt import GPT
    from folio.models.pretrained import format_tensors

    model = trained.model
    plan = plan_export(model.config, formats(), "llama.cpp")
    assert isinstance(model, GPT)
    words = vocabulary(trained.tokenizer, model.config.vocab_size)
    draft = file.with_name(f".{file.name}{UNFINISHED}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = gguf_tensors(plan, format_tensors(model, plan))
        write_gguf(draft, plan, tensors, words, file.stem)
        verified = verify_gguf(model, draft, tensors, trained.tokenizer.vocab_size)
        os.replace(draft, file)
    except OSError as error:
        raise FolioError(f"DEST={file}: cannot write there ({error.strerror}); name another file") from None
    finally:
        draft.unlink(missing_ok=True)
    steps = "".join(f"\n{'':<16} {line}" for line in plan.descriptions)
    prompt = trained.config.callbacks.samples.prompt
    command = shlex.join(["llama-cli", "--model", str(file), "-no-cnv", "--prompt", prompt])
    return f"""\
checkpoint       {checkpoint}, step {trained.step}
format           {plan.format.model_type} of llama.cpp, {model.n_parameters:,} parameters, float32{steps}
verified         {verified}
written          {file}
try it with

    {command}"""


def gguf_tensors(plan: FormatPlan, tensors: "dict[str, Tensor]") -> "dict[str, ndarray[Any, Any]]":
    """Return the tensors of a format under llama.cpp's names, and in its order of dimensions."""
    from gguf import get_tensor_name_map
    from gguf.constants import MODEL_ARCH

    config, arch = plan.config, plan.format.model_type
    names = get_tensor_name_map(MODEL_ARCH[arch.upper()], config.n_layers)
    renamed = {}
    for name, tensor in tensors.items():
        values, part = tensor.numpy(), name.split(".")[-2]
        if arch == "llama" and part in ("q_proj", "k_proj"):
            values = pair_neighbors(values, config.n_heads if part == "q_proj" else config.key_value_heads)
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None, name
        renamed[gguf_name] = values
    if config.rotary_scaling is not None and config.rotary_scaling.name == "llama3":
        renamed["rope_freqs.weight"] = _stretching(config, config.rotary_scaling)
    return renamed


def _stretching(config: TransformerConfig, scaling: RotaryScaling) -> "ndarray[Any, Any]":
    """Return the factor by which each pair of dimensions turns more slowly: (K/2,)."""
    import numpy as np

    width, base = config.head_width, config.positional_base
    plain = base ** (np.arange(0, width, 2) / width)
    return (np.array(scaling.divisors(width, base)) / plain).astype(np.float32)


def write_gguf(
    file: Path, plan: FormatPlan, tensors: "dict[str, ndarray[Any, Any]]", words: VocabularyForLlamaCpp, name: str
) -> None:
    """Write a model in the form that the plan has. Raises: OSError."""
    from gguf import GGUFWriter, LlamaFileType

    writer = GGUFWriter(file, plan.format.model_type)
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.ALL_F32)
    _add_sizes(writer, plan.config)
    words.add_to(writer)
    for tensor_name, values in tensors.items():
        writer.add_tensor(tensor_name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: Any, config: TransformerConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.feed_forward_width)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.positional_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.rotary_scaling is not None and config.rotary_scaling.name == "yarn":
        _add_yarn(writer, config.rotary_scaling)


def _add_yarn(writer: Any, scaling: RotaryScaling) -> None:
    from gguf import RopeScalingType

    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(scaling.factor)
    writer.add_rope_scaling_orig_ctx_len(scaling.original_context_length)
    writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)
    # llama.cpp multiplies by 0.1 ln(factor) + 1 itself.
    writer.add_rope_scaling_attn_factors(scaling.amplitude / (0.1 * math.log(scaling.factor) + 1.0))


def pair_neighbors(rows: "ndarray[Any, Any]", n_heads: int) -> "ndarray[Any, Any]":
    """Reorder the rows of a projection, (H K, ...), for an architecture that rotates neighbors.

    llama.cpp's llama rotates dimensions 2i and 2i + 1 together, as Meta's code does, and transformers i and i + K/2.
    """
    halves = rows.reshape(n_heads, 2, -1, *rows.shape[1:])  # (H, 2, K/2, ...)
    return halves.swapaxes(1, 2).reshape(rows.shape)
