"""Checks of files from torch.save that others made: reading one must not exhaust the memory. Imports no torch."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from folio.runtime.pickles import MAX_PICKLE_BYTES, check_pickle
from folio.runtime.untrusted import open_regular

N_LEGACY_PICKLES = 5
"""Pickles that start a file from before torch 1.6: a magic number, a protocol, the system, the object, its keys."""


def check_torch_file(path: Path) -> None:
    """Check a file of torch.save before torch reads it.

    Raises: UnsafePickleError for what it would call or allocate; ValueError for an archive that torch.save does not
    write; UntrustedFileError unless it is a regular file; OSError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if zipfile.is_zipfile(file):
            check_pickle(_archived_pickle(file, size), size)
        else:
            file.seek(0)
            check_pickle(file.read(MAX_PICKLE_BYTES), size, N_LEGACY_PICKLES)


def _archived_pickle(file: BinaryIO, size: int) -> bytes:
    """Return data.pkl of an archive.

    torch.save stores its members uncompressed. Compressed, overlapping or repeated members are how a small file becomes
    a large one, or one that two readers read differently.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("compressed members, which torch.save does not write")
        if sum(member.file_size for member in members) > size:
            raise ValueError("members larger than the file")
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two members of one name")
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError("no single data.pkl of reasonable size")
        return archive.read(pickles[0])


def check_tensor_sizes(tensors: Mapping[str, Any]) -> None:
    """Raises: ValueError if a tensor claims more values than the file holds: copying it could fill the memory."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but the file does not hold that many values")
