"""Write sharded checkpoints with torch.distributed.checkpoint while training continues; see `folio.runs.shards`."""

import uuid
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from folio.runs.checkpoints import save_checkpoint
from folio.runs.shards import COLUMNS, SHARDS_FOLDER, SHARDS_KEY, Place, remove_unused_shards
from folio.runtime.errors import FolioError
from folio.runtime.files import UNFINISHED, sync
from folio.runtime.untrusted import shown


class ShardWriter:
    """Writes the sharded checkpoints of a run, one at a time, in each of its processes.

    `save` returns as soon as the tensors are copied into main memory. The next `save`, and `wait`, wait for the rest,
    and raise in every process what prevented it in one.
    """

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        self._future: Future[Any] | None = None
        self._last: _Shards | None = None

    def save(self, state: dict[str, Any], path: Path, step: int) -> None:
        """Write the checkpoint of a step, whose sharded tensors are DTensors. All processes must call it.

        Another name for the same step gets the shards of the first one. Raises: FolioError.
        """
        tensors: dict[str, DTensor] = {}
        places: dict[str, list[Place]] = {}
        plain = _take_tensors(state, [], tensors, places, {})
        folder = path.parent / SHARDS_FOLDER
        if self._last is not None and (self._last.step, self._last.folder.parent) == (step, folder):
            self._last.add_name(path, plain)
            return
        self.wait()
        if self._group is None:  # another thread uses it
            self._group = dist.new_group(backend="gloo")
        message: list[Any] = [f"step={step}-{uuid.uuid4().hex[:8]}", places]
        dist.broadcast_object_list(message, src=0, group=self._group)
        name, places = message
        self._last = _Shards(step, folder / name, places)
        self._last.add_name(path, plain)
        try:
            self._last.draft.mkdir(parents=True, exist_ok=True)
            self._future = async_save(  # type: ignore[assignment]
                {key: tensors[key] for key in places},
                storage_writer=_Writer(self._last),
                process_group=self._group,
            )
        except OSError as error:
            raise _refusal(error) from error

    def wait(self) -> None:
        """Wait until the last checkpoint is complete. Raises: FolioError if a process could not write its part."""
        future, self._future = self._future, None
        if future is None:
            return
        try:
            future.result()
        except BaseException as error:
            self._last = None
            if isinstance(error, CheckpointException):  # of all processes
                raise _refusal(next(iter(error.failures.values()))[0]) from error
            raise


class _Shards:
    """The shards of a step, and the checkpoints that name them."""

    def __init__(self, step: int, folder: Path, places: dict[str, list[Place]]) -> None:
        self.step = step
        self.folder = folder
        self.draft = folder.with_name(f".{folder.name}{UNFINISHED}")
        self._places = places
        self._lock = Lock()
        self._waiting: dict[Path, dict[str, Any]] = {}
        self._description: dict[str, Any] | None = None

    def add_name(self, path: Path, plain: dict[str, Any]) -> None:
        """Write an index as soon as the shards are complete. Raises: FolioError."""
        if dist.get_rank() > 0:
            return
        with self._lock:
            self._waiting[path] = plain
            if self._description is not None:
                self._write_indexes()

    def commit(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Give the shards their name once all processes have written theirs, and write the indexes."""
        self.draft.rename(self.folder)
        sync(self.folder.parent)
        with self._lock:
            self._description = _describe(self.folder.name, metadata, results, self._places)
            self._write_indexes()

    def _write_indexes(self) -> None:
        for path, plain in self._waiting.items():
            save_checkpoint(plain | {SHARDS_KEY: self._description}, path)
        self._waiting = {}
        remove_unused_shards(self.folder.parent.parent)


class _Writer(FileSystemWriter):
    """Writes a file for each process, and commits when all of them are complete."""

    def __init__(self, shards: _Shards) -> None:
        super().__init__(shards.draft)
        self._shards = shards

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().write_data(*args, **kwargs)
        except RuntimeError as error:  # torch.save hides an OSError
            raise (error.__context__ or error) from None

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        self._shards.commit(metadata, results)


def _take_tensors(
    state: Any,
    place: Place,
    tensors: dict[str, DTensor],
    places: dict[str, list[Place]],
    known: dict[tuple[Any, ...], str],
) -> Any:
    """Return a copy of a checkpoint with None in the places of its sharded tensors, which are added to `tensors`.

    Tied weights are two tensors with the same values in memory: `places` has both places under the key of the first.
    """
    if isinstance(state, dict):
        return {key: _take_tensors(value, [*place, key], tensors, places, known) for key, value in state.items()}
    if isinstance(state, list):
        return [_take_tensors(value, [*place, index], tensors, places, known) for index, value in enumerate(state)]
    if not isinstance(state, DTensor):  # training changes it in place while the index waits
        return state.detach().cpu().clone() if isinstance(state, torch.Tensor) else state
    key = "/".join(map(str, place))
    rows = state.to_local()
    memory = (rows.untyped_storage().data_ptr(), rows.storage_offset(), rows.shape)
    first = known.setdefault(memory, key) if rows.untyped_storage().nbytes() else key
    tensors.setdefault(key, state)
    places.setdefault(first, []).append(place)
    return None


def _describe(
    folder: str, metadata: Metadata, results: list[list[WriteResult]], places: dict[str, list[Place]]
) -> dict[str, Any]:
    """Return the list of shards for an index, of what all processes wrote; see `folio.runs.shards.ShardedTensor`."""
    stored_at = {result.index: result.storage_data for own_results in results for result in own_results}
    files = sorted({info.relative_path for info in stored_at.values()})
    numbers = {name: number for number, name in enumerate(files)}
    tensors = []
    for key, own_places in places.items():
        stored: Any = metadata.state_dict_metadata[key]
        chunks = []
        for chunk in stored.chunks:
            if chunk.sizes[0] == 0:  # a process for which there are no rows
                continue
            info = stored_at[MetadataIndex(key, chunk.offsets)]
            chunks.append([numbers[info.relative_path], info.offset, info.length, chunk.offsets[0], chunk.sizes[0]])
        chunks.sort(key=lambda numbers: numbers[3])
        tensors.append(
            {
                "places": own_places,
                "shape": list(stored.size),
                "dtype": str(stored.properties.dtype).removeprefix("torch."),
                "chunks": torch.tensor(chunks, dtype=torch.int64).view(-1, COLUMNS),
            }
        )
    return {"folder": folder, "files": files, "tensors": tensors}


def _refusal(error: BaseException) -> FolioError:
    """Return what a user can do about an error of writing."""
    if isinstance(error, FolioError):
        return error
    where = getattr(error, "filename", None) or "a sharded checkpoint"
    reason = getattr(error, "strerror", None) or shown(error)
    return FolioError(f"{where} cannot be written ({reason}); free space there, or fix its permissions")
