"""Checks of files from torch.save that others made: reading one must not exhaust the memory. Imports no torch."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_archive(path: Path) -> None:
    """Raises: ValueError if reading a zip archive would take more memory than it takes on disk.

    torch.save stores its members uncompressed. Compressed or overlapping members can make a small file large.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("compressed members, which torch.save does not write")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("members larger than the file")


def check_tensor_sizes(tensors: Mapping[str, Any]) -> None:
    """Raises: ValueError if a tensor claims more values than the file holds: copying it could fill the memory."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but the file does not hold that many values")
