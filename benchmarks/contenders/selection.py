"""Which programs are compared, and why one of them cannot take part. Imports no torch."""

import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from folio.models.formats.gpt2 import GPT2
from folio.models.transformer_config import TransformerConfig
from folio.runtime.errors import FolioError

TITLES = {
    "folio": "Folio",
    "bare": "bare loop",
    "lightning": "Lightning alone",
    "hf": "Hugging Face",
    "nanogpt": "nanoGPT",
    "folio_int8": "Folio, int8",
}
"""Names of the contenders in tables and plots."""

PEERS = ("bare", "hf", "nanogpt")
"""Contenders that Folio is compared with."""

HUGGING_FACE_FOLDER = Path(sys.prefix) / "hugging_face"
"""Folder in which `make setup` installs transformers, so that no other command imports it."""


@dataclass(frozen=True)
class Peers:
    """The chosen peers."""

    names: tuple[str, ...]
    nanogpt: Path | None
    """Checkout of nanoGPT."""

    def supporting(self, model_config: TransformerConfig) -> tuple[list[str], list[str]]:
        """Return the peers that can compute this model, and a sentence for each that cannot."""
        reasons = {name: _reason_against(name, model_config) for name in self.names}
        return (
            [name for name, reason in reasons.items() if reason is None],
            [f"{TITLES[name]} is left out: {reason}" for name, reason in reasons.items() if reason],
        )


def choose_peers(names: str | None, nanogpt: Path | None) -> Peers:
    """Parse a comma-separated list of peers; None chooses all that are available. Raises: FolioError."""
    if nanogpt is not None and not (nanogpt / "model.py").is_file():
        raise FolioError(f"--nanogpt={nanogpt} has no model.py; give the folder of a checkout of nanoGPT")
    if names is None:
        return Peers(PEERS if nanogpt else PEERS[:2], nanogpt)
    chosen = tuple(filter(None, names.split(",")))
    for name in chosen:
        if name not in PEERS:
            raise FolioError(f"--peers={name} is not one of {', '.join(PEERS)}")
    if "nanogpt" in chosen and nanogpt is None:
        raise FolioError("--peers=nanogpt needs a checkout of nanoGPT; add --nanogpt PATH")
    return Peers(chosen, nanogpt)


def transformers_path() -> list[str]:
    """Return what to append to sys.path before `import transformers`. Raises: FolioError if it is not installed."""
    if PathFinder.find_spec("transformers") is not None:
        return []
    if PathFinder.find_spec("transformers", [str(HUGGING_FACE_FOLDER)]) is not None:
        return [str(HUGGING_FACE_FOLDER)]
    raise FolioError("transformers is not installed; run make setup, or pip install --editable '.[bench]'")


def _reason_against(name: str, model_config: TransformerConfig) -> str | None:
    if name == "bare":
        return None
    if name == "nanogpt":
        return _difference_from_nanogpt(model_config)
    try:
        transformers_path()
    except FolioError as error:
        return str(error)
    if problems := GPT2.problems(model_config):
        return f"its GPT-2 supports {problems[0]}"
    if not (model_config.bias and model_config.attention_has_bias):
        return "its GPT-2 always has biases, and model.bias=false or model.attention_bias=false"
    return None


def _difference_from_nanogpt(model_config: TransformerConfig) -> str | None:
    if problems := GPT2.problems(model_config):
        return f"its model supports {problems[0]}"
    required = {
        "activation": "gelu",
        "ties_weights": True,
        "attention_has_bias": model_config.bias,
        "feed_forward_dropout": 0.0,
        "feed_forward_width": 4 * model_config.d_model,
    }
    for field, value in required.items():
        actual = getattr(model_config, field)
        if actual != value:
            return f"its model supports only {field}={value}, not {actual}"
    return None
