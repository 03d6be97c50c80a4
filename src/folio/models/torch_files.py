"""Files of torch.save from somebody else: what they may make this process do or hold. Imports no torch."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_archive(path: Path) -> None:
    """Raises: ValueError where reading a zip archive would take more memory than it takes on disk.

    torch.save stores what it writes. Packed or overlapping members are how a small file becomes a large one.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("packed members, which torch.save does not write")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("members larger than the file")


def check_substance(tensors: Mapping[str, Any]) -> None:
    """Raises: ValueError where a tensor claims more values than lie in the file: copying it could fill the memory."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, and the file has not as many values")
