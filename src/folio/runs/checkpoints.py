"""Checkpoint files: plain data, written completely or not at all, and read without executing anything in them."""

import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError

from folio.config.migrations import read_stored_config
from folio.config.run import RunConfig
from folio.config.tokenizer import load_tokenizer
from folio.data.tokenizers.base import Tokenizer
from folio.models import Model, TransformerConfig, build_model
from folio.runs.shards import SHARDS_KEY, ShardedCheckpoint, ShardedTensor, place_tensors
from folio.runtime.errors import FolioError
from folio.runtime.files import atomic_writer
from folio.runtime.torch_files import check_tensor_sizes, load_torch_file
from folio.runtime.untrusted import shown
from folio.runtime.version import VERSION

FORMAT = 4
"""Version of the file format. It increases when older versions of Folio could not read the new files."""

OLDEST_FORMAT = 2
"""Oldest format that can be read; `folio.config.migrations` has the keys that configs of that time lack."""

CALLBACK_KEYS_BEFORE_4 = {"Curves": "metrics", "Checkpoints": "checkpoints", "Pace": "throughput"}
"""Class names under which formats 2 and 3 stored the states of callbacks, and the `state_key` of each since."""

MAX_STEP = 2**53
MAX_VALUES = 10_000_000
"""Limit for the plain values in a checkpoint. A model of 1,000 layers has some 100,000."""

FOLIO_KEY = "folio"
"""Key of everything that Folio adds to Lightning's checkpoint."""
MODEL_PREFIX = "model."
"""Prefix of the model's weights in the state dict of the LightningModule."""

ReadShards = Callable[[ShardedCheckpoint, ShardedTensor], torch.Tensor]
"""Reads a tensor of a sharded checkpoint, or the share of it that belongs to a process."""


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` so that a reader, or a crash at any moment, sees the old file or the new one.

    Raises: FolioError if the disk is full or refuses; then the old file is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            _torch_save(state, file)
    except OSError as error:
        raise FolioError(
            f"{path} cannot be written ({error.strerror}); free space there, or fix its permissions"
        ) from error


def _torch_save(state: dict[str, Any], file: BinaryIO) -> None:
    """Call torch.save, which hides an OSError behind a RuntimeError about its archive."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        raise (error.__context__ or error) from None


def read_checkpoint(
    path: Path,
    device: str | torch.device = "cpu",
    mmap: bool = False,
    *,
    parts: Collection[str] | None = None,
    read: ReadShards | None = None,
) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors and plain values only. Raises: FolioError.

    Args:
        path: the checkpoint.
        device: where its tensors are placed.
        mmap: whether tensors in a whole file are read when they are used.
        parts: of a sharded checkpoint, the parts whose tensors are read, such as state_dict; all if None.
        read: returns a tensor of a sharded checkpoint; all of it unless something else is given.
    """
    try:
        state = load_torch_file(path, device, mmap=mmap)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else shown(error)
        raise FolioError(f"{path} is not a checkpoint that can be read ({reason}); choose another") from None
    saved = state.get(FOLIO_KEY) if isinstance(state, dict) else None
    if not isinstance(saved, dict) or type(saved.get("format")) is not int:
        raise FolioError(f"{path} was not written by Folio; give a checkpoint from a run folder")
    if saved["format"] not in range(OLDEST_FORMAT, FORMAT + 1):
        version = shown(saved.get("version"))
        writer = f"written by Folio {version}" if "version" in saved else "from before versions were stored"
        raise FolioError(
            f"{path} has format {shown(saved['format'])}, {writer}; this Folio, {VERSION}, reads {OLDEST_FORMAT} to "
            f"{FORMAT}: use the one that wrote it, which metrics.json in the run folder names"
        )
    if problem := structural_problem(state):
        raise FolioError(f"{path} is damaged ({problem}); choose another checkpoint")
    assert isinstance(state, dict)
    if SHARDS_KEY in state:
        _place_shards(state, path, device, parts, read)
    return _upgrade(state)


def _place_shards(
    state: dict[str, Any],
    path: Path,
    device: str | torch.device,
    parts: Collection[str] | None,
    read: ReadShards | None,
) -> None:
    """Put the tensors of a sharded checkpoint into what its index holds. Raises: FolioError."""
    try:
        shards = ShardedCheckpoint(path, state.pop(SHARDS_KEY))
        place_tensors(
            state, shards, lambda tensor: read(shards, tensor) if read else shards.whole(tensor).to(device), parts
        )
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else shown(error)
        raise FolioError(f"{path} cannot be used ({reason}); choose another checkpoint") from None


def _upgrade(state: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint of an older format with today's keys."""
    if state[FOLIO_KEY]["format"] < 4 and isinstance(state.get("callbacks"), dict):
        state["callbacks"] = {CALLBACK_KEYS_BEFORE_4.get(key, key): value for key, value in state["callbacks"].items()}
    return state


def structural_problem(state: dict[Any, Any]) -> str | None:
    """Return what of a checkpoint is not of the type that it must have; None if nothing is.

    Checked when a checkpoint is read, so that code and messages can rely on it.
    """
    saved = state[FOLIO_KEY]
    for name, value, kind in (
        ("state_dict", state.get("state_dict"), dict),
        ("callbacks", state.get("callbacks", {}), dict),
        ("loops", state.get("loops", {}), dict),
        ("optimizer_states", state.get("optimizer_states", []), list),
        *((key, saved.get(key), dict) for key in ("config", "model", "tokenizer", "val")),
    ):
        if not isinstance(value, kind):
            return f"its {name} is {shown(value)}"
    step = state.get("global_step")
    if type(step) is not int or not 0 <= step < MAX_STEP:
        return f"its global_step is {shown(step)}"
    for name, tensor in state["state_dict"].items():
        is_tensor = isinstance(tensor, torch.Tensor) or (tensor is None and SHARDS_KEY in state)
        if not isinstance(name, str) or not is_tensor:
            return f"its state_dict holds {shown(name)}"
    for name, number in saved["val"].items():
        if not isinstance(name, str) or isinstance(number, bool) or not isinstance(number, int | float):
            return f"its val holds {shown(name)}"
    return _plainness_problem(state)


def _plainness_problem(state: Any) -> str | None:
    """Return what of the values is not plain, or too many or too deeply nested once they are printed; None if nothing.

    A pickle can hold one list in many places: sixty of them, each with the next one twice, would print as 2^60 values.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, dict | list | tuple):
            if not isinstance(value, torch.Tensor | str | bytes | int | float | None):
                raise TypeError(f"it holds {shown(type(value).__name__)}")
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = MAX_VALUES  # what a container that holds itself would come to
            children = [*value, *value.values()] if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(child) for child in children)
        return sizes[id(value)]

    try:
        return None if size(state) < MAX_VALUES else f"it holds more than {MAX_VALUES:,} values"
    except TypeError as error:
        return str(error)
    except RecursionError:
        return "it is nested too deeply"


def stored_config(path: Path) -> Any:
    """Return the plain config in a checkpoint, unchecked. Raises: FolioError."""
    return read_checkpoint(path, mmap=True, parts=())[FOLIO_KEY].get("config")


def checkpoint_step(path: Path) -> int:
    """Return the optimizer step of a checkpoint. Raises: FolioError."""
    return int(read_checkpoint(path, mmap=True, parts=())["global_step"])


@dataclass(frozen=True)
class CheckpointMetadata:
    """The description of a run in its checkpoints, with which their models can be used without the run folder."""

    config: RunConfig
    model: TransformerConfig
    tokenizer: Tokenizer

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, which `read_checkpoint` can read without executing code."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config.model_dump(),
            "model": asdict(self.model),
            "tokenizer": self.tokenizer.state(),
        }


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The model of a checkpoint, in eval mode, with its tokenizer."""

    model: Model
    tokenizer: Tokenizer
    config: RunConfig
    step: int
    val: dict[str, float]
    """Validation metrics that training logged for these weights; empty if there was no validation at this step."""


def load_checkpoint(path: Path, device: str | torch.device) -> LoadedCheckpoint:
    """Rebuild model and tokenizer from a checkpoint alone; nothing in the file is trusted. Raises: FolioError."""
    state = read_checkpoint(path, device, mmap=True, parts=("state_dict",))
    saved = state[FOLIO_KEY]
    try:
        config, unknown = read_stored_config(saved.get("config"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FolioError(
            f"{path} holds the config of another Folio ({key}: {first['msg']}); use the version that wrote it"
        ) from None
    if unknown:
        keys = shown(", ".join(unknown))
        print(f"{path} is from another Folio; options that this one does not know are ignored: {keys}", file=sys.stderr)
    if "averaging_state" in state:  # Lightning's weight averaging keeps the raw weights for a resumed run alone
        print(f"{path}: using the averaged weights, which were validated", file=sys.stderr)
    try:
        return LoadedCheckpoint(
            model=_rebuild_model(saved["model"], state["state_dict"], device).eval(),
            tokenizer=load_tokenizer(saved["tokenizer"]),
            config=config,
            step=state["global_step"],
            val=saved["val"],
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise FolioError(
            f"{path} is damaged ({type(error).__name__}: {shown(error)}); choose another checkpoint"
        ) from None


def _rebuild_model(
    model_config: dict[str, Any], state_dict: dict[str, torch.Tensor], device: str | torch.device
) -> Model:
    """Return the model of a checkpoint. Raises: ValueError and others if weights and config do not match.

    They are compared before any memory is allocated, so that a forged config cannot request more than the file holds.
    """
    weights = {
        key.removeprefix(MODEL_PREFIX): tensor for key, tensor in state_dict.items() if key.startswith(MODEL_PREFIX)
    }
    config = TransformerConfig.from_dict(model_config)
    if config.n_layers > len(weights):
        raise ValueError(f"{config.n_layers} layers, and {len(weights)} tensors")
    with torch.device("meta"):
        expected = build_model(config).state_dict()
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape or weights[name].dtype != tensor.dtype:
            raise ValueError(f"{name} is {tuple(weights[name].shape)}, and the model has {tuple(tensor.shape)}")
    check_tensor_sizes(weights)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values")
    with torch.device(device):
        model = build_model(config)
    model.load_state_dict(weights)
    return model
