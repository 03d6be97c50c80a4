"""Sharded checkpoints: each process writes its own rows of the tensors, while training continues.

A sharded checkpoint has the name of any other, last.ckpt, but that file is an index: everything but the sharded
tensors, in whose places it has None, and a list of where their rows are. They are in a folder of torch's distributed
checkpoint, next to it:

    checkpoints/last.ckpt                           the index
    checkpoints/shards/step=24-1f0c/__0_0.distcp    the rows of process 0: an archive of torch.save for each tensor
    checkpoints/shards/step=24-1f0c/.metadata       torch's index, for torch's tools: a pickle that Folio never reads

The index is written last and in one rename, so that what a name stands for is complete at any moment. Several names
may have one folder. A folder that no index names any more is removed.
"""

import math
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from folio.runtime.pickles import DTYPES
from folio.runtime.torch_files import load_torch_bytes, load_torch_file
from folio.runtime.untrusted import open_regular, shown

SHARDS_KEY = "shards"
"""Key of the list of sharded tensors in an index."""

SHARDS_FOLDER = "shards"
"""Folder next to the checkpoints with a folder for each sharded checkpoint."""

SHARD_FILE = re.compile(r"__\d{1,9}_\d{1,9}\.distcp")
FOLDER_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z=-]{0,99}")

COLUMNS = 5
"""Numbers that describe the rows of a tensor in a file: file, first byte, bytes, first row, rows."""

MAX_TENSORS = 1_000_000

Place = list[str | int]
"""Where a tensor is in a checkpoint: ["optimizer_states", 0, "state", 3, "exp_avg"]."""


@dataclass(frozen=True)
class ShardedTensor:
    """A tensor in a sharded checkpoint, as its index describes it. Its rows are in files, one after the other."""

    places: list[Place]
    """Where it belongs; a tied weight has several places."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: list[list[int]]
    """COLUMNS numbers for each part, in the order of the rows."""


class ShardedCheckpoint:
    """The tensors of a sharded checkpoint. Nothing in its files is trusted.

    Raises: ValueError with the reason if the index is not one that Folio writes, or does not fit its files; OSError.
    """

    def __init__(self, index: Path, description: Any) -> None:
        match description:
            case {"folder": str() as folder, "files": list() as files, "tensors": list() as tensors, **others} if (
                not others and FOLDER_NAME.fullmatch(folder) and len(tensors) <= MAX_TENSORS
            ):
                pass
            case _:
                raise ValueError("its list of shards is not one that Folio writes")
        self.folder = index.parent / SHARDS_FOLDER / folder
        for name in files:
            if not (isinstance(name, str) and SHARD_FILE.fullmatch(name)):
                raise ValueError(f"its list of shards names the file {shown(name)}")
        self._files = [self.folder / name for name in files]
        try:
            sizes = [file.stat().st_size for file in self._files]
        except FileNotFoundError as error:
            raise ValueError(
                f"its shards are missing: {error.filename}; a sharded checkpoint moves with its folder {SHARDS_FOLDER}/"
            ) from None
        self.tensors = [_read_tensor(entry, sizes) for entry in tensors]
        if sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in self.tensors) > sum(sizes):
            raise ValueError("it lists tensors larger than its shards")

    def rows(self, tensor: ShardedTensor, first: int, end: int) -> Tensor:
        """Return rows of a tensor: those of the files that hold some of them are read. Raises: ValueError; OSError."""
        rows = torch.empty((end - first, *tensor.shape[1:]), dtype=tensor.dtype)
        for file, offset, length, start, n_rows in tensor.chunks:
            begin, stop = max(first, start), min(end, start + n_rows)
            if begin >= stop:
                continue
            with open_regular(self._files[file]) as stream:
                stream.seek(offset)
                part = load_torch_bytes(stream.read(length))
            shape = (n_rows, *tensor.shape[1:])
            if not isinstance(part, Tensor) or part.shape != shape or part.dtype != tensor.dtype:
                raise ValueError(f"{self._files[file].name} does not hold the rows that the index says")
            rows[begin - first : stop - first] = part[begin - start : stop - start]
        return rows

    def whole(self, tensor: ShardedTensor) -> Tensor:
        return self.rows(tensor, 0, tensor.shape[0])


def place_tensors(
    state: dict[str, Any],
    checkpoint: ShardedCheckpoint,
    read: Callable[[ShardedTensor], Tensor],
    parts: Collection[str] | None,
) -> None:
    """Put the tensors where they belong in a checkpoint; only those of some top-level parts, if not None.

    Raises: ValueError if they have no place there.
    """
    for tensor in checkpoint.tensors:
        places = [place for place in tensor.places if parts is None or place[0] in parts]
        if not places:
            continue
        value = read(tensor)
        for place in places:
            container: Any = state
            for key in place[:-1]:
                container = _item(container, key)
            if _item(container, place[-1]) is not None:
                raise ValueError(f"its list of shards names the place {shown(place)}")
            container[place[-1]] = value


def _item(container: Any, key: str | int) -> Any:
    """Return an item of a list or dictionary that came from a file. Raises: ValueError if it has none."""
    if isinstance(container, dict) and key in container:
        return container[key]
    if isinstance(container, list) and isinstance(key, int) and 0 <= key < len(container):
        return container[key]
    raise ValueError(f"its list of shards names the place {shown(key)}")


def _read_tensor(entry: Any, sizes: list[int]) -> ShardedTensor:
    """Check what an index says of a tensor. Raises: ValueError."""
    match entry:
        case {
            "places": list() as places,
            "shape": list() as shape,
            "dtype": str() as dtype,
            "chunks": Tensor() as table,
        } if dtype in DTYPES and table.dtype == torch.int64 and table.ndim == 2 and table.size(1) == COLUMNS:
            chunks = table.tolist()
        case _:
            raise ValueError("its list of shards is not one that Folio writes")
    if not places or not all(isinstance(place, list) and place and _are_keys(place) for place in places):
        raise ValueError("its list of shards has a tensor without a place")
    if not 1 <= len(shape) <= 8 or any(type(size) is not int or not 0 <= size < 2**40 for size in shape):
        raise ValueError(f"its list of shards has the shape {shown(shape)}")
    row = 0
    for file, offset, length, start, n_rows in chunks:
        if not 0 <= file < len(sizes) or min(offset, length, n_rows) < 0 or offset + length > sizes[file]:
            raise ValueError("its shards are cut short, or of another checkpoint")
        if start != row:
            raise ValueError("its list of shards leaves rows out, or has some twice")
        row += n_rows
    if row != shape[0]:
        raise ValueError("its list of shards leaves rows out")
    return ShardedTensor(places, tuple(shape), getattr(torch, dtype), chunks)


def _are_keys(place: list[Any]) -> bool:
    return len(place) <= 20 and all(type(key) in (str, int) for key in place)


def remove_unused_shards(checkpoints: Path) -> None:
    """Remove the folders of shards that no checkpoint in a run's folder of checkpoints names.

    Nothing else may be writing there. If a checkpoint cannot be read, everything stays.
    """
    folder = checkpoints / SHARDS_FOLDER
    if not folder.is_dir():
        return
    try:
        states = [load_torch_file(path, mmap=True) for path in checkpoints.glob("*.ckpt")]
        used = {state[SHARDS_KEY]["folder"] for state in states if SHARDS_KEY in state}
    except (OSError, ValueError, TypeError, KeyError):
        return
    for path in folder.iterdir():
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)
