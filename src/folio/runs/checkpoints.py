"""Checkpoint files: plain data, written whole or not at all, read without running anything from them.

Imports no lightning.
"""

import random
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError

import folio
from folio.config.migrations import migrate_config
from folio.config.run import RunConfig
from folio.data.tokenizers.registry import Tokenizer, load_tokenizer
from folio.models import Model, TransformerConfig, build_model
from folio.models.torch_files import check_archive, check_substance
from folio.runtime.errors import FolioError
from folio.runtime.files import atomic_writer

FORMAT = 4
"""Grows when an older Folio could no longer read what a newer one writes."""

OLDEST_FORMAT = 2
"""That this Folio reads; `folio.config.migrations` says what the configs in it lack."""

CALLBACKS_BEFORE_4 = {"Curves": "metrics", "Checkpoints": "checkpoints", "Pace": "throughput"}
"""Entries of callbacks that had the names of classes up to format 3, and their names since."""

VERSION = folio.__version__
FOLIO_KEY = "folio"
MODEL_PREFIX = "model."


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` so that a reader, or a crash at any moment, sees the old file or the new one.

    Raises: FolioError where the disk is full or refuses; then what lay at `path` still does.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            _save(state, file)
    except OSError as error:
        raise FolioError(
            f"{path} cannot be written ({error.strerror}); free space there, or mend its permissions"
        ) from error


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, which answers what goes wrong in the middle of it with a complaint about its archive."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        raise (error.__context__ or error) from None


def load(path: Path, device: str | torch.device = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values can come out of it. Raises: FolioError."""
    if not zipfile.is_zipfile(path):  # what torch.save writes
        raise FolioError(f"{path} is not a checkpoint that can be read (no zip archive, or cut short); choose another")
    try:
        check_archive(path)
        state = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises half a dozen types for damaged and foreign files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FolioError(f"{path} is not a checkpoint that can be read ({reason}); choose another") from None
    folio = state.get(FOLIO_KEY) if isinstance(state, dict) else None
    if not isinstance(folio, dict) or "format" not in folio:
        raise FolioError(f"{path} was not written by Folio; give a checkpoint from a run folder")
    if folio["format"] not in range(OLDEST_FORMAT, FORMAT + 1):
        wrote_it = f"written by Folio {folio['version']}" if "version" in folio else "from before versions stood in it"
        raise FolioError(
            f"{path} has format {folio['format']}, {wrote_it}; this Folio, {VERSION}, reads {OLDEST_FORMAT} to "
            f"{FORMAT}: use the one that wrote it, which metrics.json beside it names"
        )
    assert isinstance(state, dict)
    return _upgraded(state)


def _upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of an older format with the names of today."""
    if state[FOLIO_KEY]["format"] < 4 and isinstance(state.get("callbacks"), dict):
        state["callbacks"] = {CALLBACKS_BEFORE_4.get(key, key): value for key, value in state["callbacks"].items()}
    return state


def saved_step(path: Path) -> int:
    """Return the optimizer step of a checkpoint. Raises: FolioError."""
    return int(load(path, mmap=True)["global_step"])


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint knows of its run besides weights and optimizer: enough to use the model alone."""

    config: dict[str, Any]
    """The run's whole config, plain."""
    model: TransformerConfig
    tokenizer: Tokenizer

    @classmethod
    def of(cls, config: RunConfig, model: TransformerConfig, tokenizer: Tokenizer) -> "CheckpointMetadata":
        return cls(config.model_dump(), model, tokenizer)

    def to_plain(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config,
            "model": asdict(self.model),
            "tokenizer": self.tokenizer.state(),
        }


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model as a checkpoint holds it, in eval mode, with its tokenizer."""

    model: Model
    tokenizer: Tokenizer
    config: RunConfig
    step: int
    val: dict[str, float]
    """The validation metrics that training logged for these weights; empty where it had none yet."""


def load_checkpoint(path: Path, device: str | torch.device) -> LoadedCheckpoint:
    """Rebuild model and tokenizer from a checkpoint alone; nothing that it claims is believed. Raises: FolioError."""
    state = load(path, device, mmap=True)
    folio = state[FOLIO_KEY]
    try:
        config = RunConfig.model_validate(migrate_config(folio.get("config")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FolioError(
            f"{path} holds the config of another Folio ({key}: {first['msg']}); use the version that wrote it"
        ) from None
    try:
        return LoadedCheckpoint(
            model=_rebuilt(folio["model"], state["state_dict"], device).eval(),
            tokenizer=load_tokenizer(folio["tokenizer"]),
            config=config,
            step=state["global_step"],
            val=folio["val"],
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FolioError(f"{path} is damaged ({type(error).__name__}: {reason}); choose another checkpoint") from None


def _rebuilt(shape: dict[str, Any], state_dict: dict[str, torch.Tensor], device: str | torch.device) -> Model:
    """The model of a checkpoint. Raises: ValueError and others where weights and shape do not belong together.

    Compared before any memory is taken, so that a shape that somebody wrote by hand cannot ask for more than the file
    has.
    """
    weights = {
        key.removeprefix(MODEL_PREFIX): tensor for key, tensor in state_dict.items() if key.startswith(MODEL_PREFIX)
    }
    config = TransformerConfig(**shape)
    if config.n_layers > len(weights):
        raise ValueError(f"{config.n_layers} layers, and {len(weights)} tensors")
    with torch.device("meta"):
        expected = build_model(config).state_dict()
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape or weights[name].dtype != tensor.dtype:
            raise ValueError(f"{name} is {tuple(weights[name].shape)}, and the model has {tuple(tensor.shape)}")
    check_substance(weights)
    with torch.device(device):
        model = build_model(config)
    model.load_state_dict(weights)
    return model


def rng_state(one_gpu: bool = False) -> dict[str, Any]:
    """The states of all generators that training draws from, as plain data; of one GPU, or of all that are there."""
    version, words, gauss = random.getstate()
    cuda: list[torch.Tensor] = []
    if torch.cuda.is_available():
        cuda = [torch.cuda.get_rng_state()] if one_gpu else torch.cuda.get_rng_state_all()
    return {
        "python": [version, list(words), gauss],
        "torch_cpu": torch.get_rng_state(),
        "torch_cuda": cuda,
    }


def set_rng_state(state: dict[str, Any], one_gpu: bool = False) -> None:
    """Inverse of `rng_state`. GPU states are left out where the run goes on without, or with other, GPUs."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch_cpu"].cpu())
    if one_gpu and state["torch_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["torch_cuda"][0].cpu())
    elif state["torch_cuda"] and len(state["torch_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["torch_cuda"]])
