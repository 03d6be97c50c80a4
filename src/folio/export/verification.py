"""Check that a written model computes what the trained one does, from the files that were written."""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from folio.models import GPT
from folio.models.pretrained import load_pretrained
from folio.runtime.errors import FolioError

if TYPE_CHECKING:
    from numpy import ndarray

TOLERANCE = 1e-4
"""Largest difference of two logits that rounding explains, as a share of the largest logit, or of 1 if that is less."""

_KEPT: list[Any] = []
"""Functions that llama.cpp calls for each line of its log, as long as this process lives."""

N_SEQUENCES, MAX_TOKENS = 2, 256


@torch.no_grad()
def verify(model: GPT, folder: Path, n_symbols: int) -> str:
    """Compare the logits of random tokens with those of a folder, and return what was compared, for people.

    transformers reads the folder if it is installed. Otherwise Folio does, as for init_from: that model has the form
    of the format, so it also shows that this form is equal.

    Raises: FolioError if the logits differ.
    """
    tokens = _random_tokens(model, n_symbols)
    logits, reader = _logits(folder, tokens)
    return _compare(model(tokens), logits, reader)


@torch.no_grad()
def verify_gguf(model: GPT, file: Path, tensors: Mapping[str, "ndarray[Any, Any]"], n_symbols: int) -> str:
    """Compare the logits with llama.cpp's, if llama-cpp-python is installed, or else the tensors with those written.

    Raises: FolioError if they differ.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        _compare_tensors(file, tensors)
        return f"{len(tensors)} tensors were read back as written; install llama-cpp-python to compare the logits, too"
    tokens = _random_tokens(model, n_symbols)
    llama_cpp: Any = importlib.import_module("llama_cpp")
    _KEPT.append(llama_cpp.llama_log_callback(lambda *_: None))
    llama_cpp.llama_log_set(_KEPT[-1], None)
    n_tokens = tokens.size(1)
    float32 = llama_cpp.GGML_TYPE_F32  # the cache, which is float16 by default
    theirs = llama_cpp.Llama(
        str(file), n_ctx=n_tokens, n_batch=n_tokens, logits_all=True, verbose=False, type_k=float32, type_v=float32
    )
    rows = []
    for row in tokens.tolist():
        theirs.reset()
        theirs.eval(row)
        rows.append(torch.tensor(theirs.scores[:n_tokens]))
    return _compare(model(tokens), torch.stack(rows), f"llama.cpp (llama-cpp-python {llama_cpp.__version__})")


def _compare_tensors(file: Path, tensors: Mapping[str, "ndarray[Any, Any]"]) -> None:
    from gguf import GGUFReader

    found = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    wrong = [name for name in tensors.keys() | found.keys() if not _equal(found.get(name), tensors.get(name))]
    if wrong:
        raise FolioError(f"{wrong[0]} is not in the file as it was written; is the disk full or faulty?")


def _equal(found: "ndarray[Any, Any] | None", written: "ndarray[Any, Any] | None") -> bool:
    return found is not None and written is not None and found.tobytes() == written.tobytes()


def _random_tokens(model: GPT, n_symbols: int) -> Tensor:
    """(B, T)."""
    shape = (N_SEQUENCES, min(model.config.context_length, MAX_TOKENS))
    return torch.randint(n_symbols, shape, generator=torch.Generator().manual_seed(0))


def _compare(expected: Tensor, logits: Tensor, reader: str) -> str:
    scale = expected.abs().max().item()
    difference = (logits - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, scale):  # written so that NaN fails
        raise FolioError(
            f"the written model is not the trained one: its logits, as read by {reader}, differ by {difference:.1e} at "
            f"a scale of {scale:.1f}; nothing is kept. Please report this with the run's config.yaml"
        )
    return (
        f"the logits of {expected.size(0) * expected.size(1)} random tokens differ by at most {difference:.1e}, at a "
        f"scale of {scale:.1f}, from those of {reader}"
    )


def _logits(folder: Path, tokens: Tensor) -> tuple[Tensor, str]:
    """Return the logits of the model in a folder, and the program that computed them."""
    if importlib.util.find_spec("transformers") is None:
        return load_pretrained(folder).eval()(tokens), "Folio"
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return model.eval()(tokens).logits, f"transformers {transformers.__version__}"
