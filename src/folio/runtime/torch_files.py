"""Read files of torch.save that others made: nothing in them runs, and reading one takes no more memory than its size.

Imports torch only to read a file that has passed the checks.
"""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from folio.runtime.pickles import MAX_PICKLE_BYTES, UnsafePickleError, check_pickle
from folio.runtime.untrusted import open_regular, shown

N_LEGACY_PICKLES = 5
"""Pickles of a file from before torch 1.6: magic number, version, sizes of numbers, the values, keys of storages."""

MAX_RECORDS = 200_000
"""Limit for the members of an archive, one per tensor; zipfile needs 10 microseconds for each."""

END_OF_ARCHIVE = b"PK\x05\x06"
END_BYTES = 22


def load_torch_file(path: Path, device: Any = "cpu", *, mmap: bool = False, legacy: bool = False) -> Any:
    """Return what torch.save wrote: tensors and plain values. `legacy` also reads files from before torch 1.6.

    Raises: ValueError with the reason in one line; UntrustedFileError if it is no regular file; OSError.
    """
    is_zip = check_torch_file(path, legacy=legacy)
    import torch

    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap and is_zip)
    except Exception as error:  # torch raises half a dozen types, and advises to run the code of the file
        raise ValueError(_reason(error)) from None


def load_torch_bytes(data: bytes) -> Any:
    """Return what torch.save wrote into a part of a larger file, as `load_torch_file` does. Raises: ValueError."""
    file = io.BytesIO(data)
    _check_archive(file, len(data))
    import torch

    try:
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Return the first line of an error; only its type if torch explains in many lines how to trust the file."""
    is_advice = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
    return type(error).__name__ if is_advice else shown(error)


def check_torch_file(path: Path, *, legacy: bool = False) -> bool:
    """Check a file of torch.save and return whether it is a zip archive.

    Raises: ValueError with the reason in one line; UntrustedFileError; OSError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(2) == b"PK":
            _check_archive(file, size)
            return True
        if not legacy:
            raise ValueError("it is no archive of torch.save")
        _check_legacy(file, size)
        return False


def _check_archive(file: BinaryIO, size: int) -> None:
    """Check a zip archive of torch.save, which stores its members uncompressed and each once.

    Compressed or overlapping members can make a small file large.
    """
    file.seek(max(0, size - END_BYTES))
    end = file.read(END_BYTES)
    if end[:4] != END_OF_ARCHIVE or end[-2:] != b"\0\0":
        raise ValueError("it is cut short, or something follows its end")
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, size)
            main = [member for member in members if member.filename.endswith("/data.pkl")]
            if len(main) != 1 or main[0].filename.count("/") != 1:
                raise ValueError("it has no data.pkl")
            if main[0].file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"its structure has more than {MAX_PICKLE_BYTES:,} bytes")
            prefix = main[0].filename.removesuffix("data.pkl") + "data/"
            records = {
                member.filename.removeprefix(prefix): member.file_size
                for member in members
                if member.filename.startswith(prefix)
            }
            pickled = archive.read(main[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError, EOFError) as error:
        raise ValueError(f"damaged archive: {shown(error)}") from None
    _check_pickle(pickled, size, record_bytes=records)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    if len(members) > MAX_RECORDS:
        raise ValueError(f"more than {MAX_RECORDS:,} members")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("compressed members, which torch.save does not write")
    if sum(member.file_size for member in members) > size:
        raise ValueError("members larger than the file")
    if any(member.file_size != member.compress_size or member.flag_bits & 1 for member in members):
        raise ValueError("members that torch.save does not write")
    if len({member.filename.lower() for member in members}) < len(members):
        raise ValueError("two members of one name")


def _check_legacy(file: BinaryIO, size: int) -> None:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:"):
            pass
    except Exception:
        file.seek(0)
    else:  # torch would read its members by other rules
        raise ValueError("a tar archive, which torch.save does not write")
    # The pickles come first; behind them are only the values of the tensors.
    _check_pickle(file.read(MAX_PICKLE_BYTES), size, n_pickles=N_LEGACY_PICKLES)


def _check_pickle(data: bytes, size: int, **rules: Any) -> None:
    try:
        check_pickle(data, size, **rules)
    except UnsafePickleError as error:
        raise ValueError(f"it holds {shown(error)}") from None


def check_tensor_sizes(tensors: Mapping[str, Any]) -> None:
    """Raises: ValueError if a tensor claims more values than the file holds: copying it could fill the memory."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{shown(name)} has shape {tuple(tensor.shape)}, but the file does not hold that many")
