"""Check a folder with GPT-2's weights before any weight is read. Imports torch only for old .bin files."""

from pathlib import Path

from folio.models.gpt2_format import (
    FLOATS,
    check_shapes,
    not_floats,
    read_gpt2_config,
    short_names,
    unreadable,
    weight_files,
)
from folio.models.transformer_config import TransformerConfig


def check_gpt2_folder(folder: Path) -> TransformerConfig:
    """What `read_gpt2_config` gives, after the names and shapes of all weights were checked.

    Of safetensors a header tells them; a .bin file is opened with torch. Raises: GPT2FormatError.
    """
    config = read_gpt2_config(folder)
    files = weight_files(folder)
    if files[0].suffix == ".safetensors":
        shapes = {name: shape for file in files for name, shape in _shapes_in(file).items()}
        check_shapes({short: shapes[name] for short, name in short_names(shapes, folder).items()}, config, folder)
    else:
        from folio.models.pretrained import read_weights

        read_weights(folder, config)
    return config


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """From the file's header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError) as error:
        raise unreadable(file, error) from None
    for name, part in slices.items():
        if part.get_dtype() not in FLOATS:
            raise not_floats(file, name, part.get_dtype())
    return {name: tuple(part.get_shape()) for name, part in slices.items()}
