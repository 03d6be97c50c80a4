"""Check that a written model computes what the trained one does, from the files that were written."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from folio.models import GPT
from folio.models.pretrained import load_pretrained
from folio.runtime.errors import FolioError

TOLERANCE = 1e-4
"""Largest difference of two logits that rounding explains, as a share of the largest logit, or of 1 if that is less."""

N_SEQUENCES, MAX_TOKENS = 2, 256


@torch.no_grad()
def verify(model: GPT, folder: Path, n_symbols: int) -> str:
    """Compare the logits of random sequences, and return what was compared, for people.

    transformers reads the folder if it is installed. Otherwise Folio does, as for init_from: that model has the form
    of the format, so it also shows that this form is equal.

    Raises: FolioError if the logits differ.
    """
    tokens = torch.randint(
        n_symbols,
        (N_SEQUENCES, min(model.config.context_length, MAX_TOKENS)),
        generator=torch.Generator().manual_seed(0),
    )
    expected = model(tokens)
    logits, reader = _logits(folder, tokens)
    scale = expected.abs().max().item()
    difference = (logits - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, scale):  # written so that NaN fails
        raise FolioError(
            f"the written model is not the trained one: its logits, as read by {reader}, differ by {difference:.1e} at "
            f"a scale of {scale:.1f}; nothing is kept. Please report this with the run's config.yaml"
        )
    return (
        f"{tokens.numel()} random tokens give logits that differ by at most {difference:.1e}, at a scale of "
        f"{scale:.1f}, when {reader} reads the folder"
    )


def _logits(folder: Path, tokens: Tensor) -> tuple[Tensor, str]:
    """Return the logits of the model in a folder, and the program that computed them."""
    if importlib.util.find_spec("transformers") is None:
        return load_pretrained(folder).eval()(tokens), "Folio"
    transformers: Any = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return model.eval()(tokens).logits, f"transformers {transformers.__version__}"
