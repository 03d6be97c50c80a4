"""The programs that are compared, and where one of them cannot be. Imports no torch."""

import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from folio.models.gpt2_format import GPT2_KIND, GPT2FormatError, gpt2_config_json
from folio.models.transformer_config import TransformerConfig
from folio.runtime.errors import FolioError

TITLES = {
    "folio": "Folio",
    "bare": "bare loop",
    "hf": "Hugging Face",
    "nanogpt": "nanoGPT",
    "folio_int8": "Folio, int8",
}
"""What tables call them."""

PEERS = ("bare", "hf", "nanogpt")

HUGGING_FACE_FOLDER = Path(sys.prefix) / "hugging_face"
"""Where `make setup` installs transformers, out of the way of every other start."""


@dataclass(frozen=True)
class Peers:
    """Which other programs take part."""

    names: tuple[str, ...]
    nanogpt: Path | None

    def able(self, shape: TransformerConfig) -> tuple[list[str], list[str]]:
        """Those that compute this model, and a sentence for each that does not."""
        reasons = {name: _why_not(name, shape) for name in self.names}
        return (
            [name for name, reason in reasons.items() if reason is None],
            [f"{TITLES[name]} is left out: {reason}" for name, reason in reasons.items() if reason],
        )


def choose_peers(asked: str | None, nanogpt: Path | None) -> Peers:
    """The peers of a comma-separated list; all that are at hand where it is None. Raises: FolioError."""
    if nanogpt is not None and not (nanogpt / "model.py").is_file():
        raise FolioError(f"--nanogpt={nanogpt} has no model.py; give the folder of a checkout of nanoGPT")
    if asked is None:
        return Peers(PEERS if nanogpt else PEERS[:2], nanogpt)
    names = tuple(filter(None, asked.split(",")))
    for name in names:
        if name not in PEERS:
            raise FolioError(f"--peers={name} is not one of {', '.join(PEERS)}")
    if "nanogpt" in names and nanogpt is None:
        raise FolioError("--peers=nanogpt needs a checkout of nanoGPT; add --nanogpt PATH")
    return Peers(names, nanogpt)


def transformers_path() -> list[str]:
    """What has to be added to sys.path for `import transformers`. Raises: FolioError where it is not installed."""
    if PathFinder.find_spec("transformers") is not None:
        return []
    if PathFinder.find_spec("transformers", [str(HUGGING_FACE_FOLDER)]) is not None:
        return [str(HUGGING_FACE_FOLDER)]
    raise FolioError("transformers is not installed; make setup does that, or pip install --editable '.[bench]'")


def _why_not(name: str, shape: TransformerConfig) -> str | None:
    if name == "bare":
        return None
    if name == "nanogpt":
        return _unlike_nanogpt(shape)
    try:
        transformers_path()
        gpt2_config_json(shape)
    except (FolioError, GPT2FormatError) as error:
        return str(error)
    return None if shape.bias else "model.bias=false, and its GPT-2 always has biases"


def _unlike_nanogpt(shape: TransformerConfig) -> str | None:
    needed = GPT2_KIND | {"activation": "gelu", "tie_weights": True, "feed_forward_width": 4 * shape.d_model}
    for field, value in needed.items():
        if (ours := getattr(shape, field)) != value:
            return f"{field}={ours}, and its model knows {value} alone"
    return None
