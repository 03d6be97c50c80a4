"""Read a model's folder of unknown origin: config.json, and weights as safetensors or, from older versions, .bin.

Everything is checked: the keys, and the name, shape and type of each tensor. Nothing in the folder is executed: Python
files are not read, and a pickle is read as plain tensors. A folder of safetensors is checked without torch.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folio.models.formats.fields import FormatError
from folio.models.formats.format import Format
from folio.models.formats.table import FORMATS
from folio.models.transformer_config import TransformerConfig
from folio.runtime.torch_files import check_tensor_sizes, load_torch_file
from folio.runtime.untrusted import UntrustedFileError, check_regular, read_json_object, shown

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which transformers prefers them. An index names the files of a model in pieces."""

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
"""The dtypes that weights may have, as safetensors names them."""


def read_config(folder: Path) -> tuple[Format, TransformerConfig]:
    """Read the kind, size and shape of the model in a folder, but not its dropout. Raises: FormatError."""
    if not folder.is_dir():
        raise FormatError(f"{folder} is not a folder; give one with config.json and model.safetensors")
    path = folder / "config.json"
    values = _read_json(path)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FORMATS:
        code = ", and code in a folder is never run" if "auto_map" in values else ""
        raise FormatError(
            f"{path}: model_type={shown(json.dumps(model_type))} is not one of {', '.join(FORMATS)}{code}; "
            "choose another folder"
        )
    if values.get("quantization_config") is not None:
        raise FormatError(f"{path}: quantization_config says that the weights are quantized; choose another folder")
    format_ = FORMATS[model_type]
    try:
        return format_, format_.read_config(values)
    except FormatError as error:
        raise FormatError(f"{path}: {error}; choose another folder") from None
    except ValueError as error:
        message = re.sub(r"\w+(?==)", lambda match: format_.key_of(match[0]), str(error))
        raise FormatError(f"{path}: {message}") from None


def check_folder(folder: Path) -> TransformerConfig:
    """Read config.json and check the names and shapes of all weights; for safetensors only the headers are read.

    Raises: FormatError.
    """
    format_, config = read_config(folder)
    files = _weight_files(folder)
    if files[0].suffix == ".safetensors":
        shapes = {name: shape for file in files for name, shape in _safetensors_shapes(file, format_).items()}
        short = _short_names(shapes, format_, folder)
        _check_shapes({name: shapes[full] for name, full in short.items()}, format_, config, folder)
    else:
        read_weights(folder, format_, config)
    return config


def read_weights(folder: Path, format_: Format, config: TransformerConfig) -> "dict[str, Tensor]":
    """Read all tensors of a model of this size: name without prefix -> tensor as in the file.

    Raises: FormatError.
    """
    import torch

    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        for name, tensor in _read_tensors(file).items():
            if _is_ignored(name, format_):
                continue
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                is_tensor = isinstance(tensor, torch.Tensor)
                raise _not_floats(file, name, tensor.dtype if is_tensor else type(tensor).__name__)
            tensors[name] = tensor
    try:
        check_tensor_sizes(tensors)
    except ValueError as error:
        raise FormatError(f"{folder}: {error}; choose another folder") from None
    found = {short: tensors[name] for short, name in _short_names(tensors, format_, folder).items()}
    _check_shapes({name: tuple(tensor.shape) for name, tensor in found.items()}, format_, config, folder)
    embedding = found[format_.embedding]
    if config.ties_weights and not torch.equal(found.get(format_.output, embedding), embedding):
        raise FormatError(
            f"{folder}: {format_.output} differs from {format_.embedding}, though config.json ties them; "
            f"set tie_word_embeddings to false there, or remove {format_.output}"
        )
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, the same that transformers would read. Raises: FormatError."""
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        raise FormatError(f"{folder} has none of {', '.join(WEIGHT_FILES)}; download or export the weights again")
    if not name.endswith(".index.json"):
        return [folder / name]
    weight_map = _read_json(folder / name).get("weight_map")
    pieces = list(weight_map.values()) if isinstance(weight_map, dict) else []
    suffix = Path(name.removesuffix(".index.json")).suffix
    for piece in pieces:
        if not isinstance(piece, str) or Path(piece).name != piece or Path(piece).suffix != suffix:
            raise FormatError(
                f"{folder / name}: weight_map names {shown(repr(piece))}, which is no {suffix} file beside it"
            )
        if not (folder / piece).exists():
            raise FormatError(f"{folder / piece} does not exist, though {name} names it; download it again")
    if not pieces:
        raise FormatError(f"{folder / name} names no files in weight_map; download it again")
    return [folder / piece for piece in sorted(set(pieces))]


def _is_ignored(name: str, format_: Format) -> bool:
    """Return whether a tensor is a buffer, which is dropped whatever its type and shape."""
    return format_.ignored.fullmatch(format_.short_name(name)) is not None


def _short_names(names: Iterable[str], format_: Format, folder: Path) -> dict[str, str]:
    """Map each weight's name without prefix to its name in the file. Raises: FormatError for duplicates."""
    short: dict[str, str] = {}
    for name in names:
        key = format_.short_name(name)
        if key in short:
            raise FormatError(
                f"{folder}: the weights hold {shown(short[key])} and {shown(name)}, which are one tensor; keep one"
            )
        short[key] = name
    return short


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], format_: Format, config: TransformerConfig, folder: Path
) -> None:
    """Check that the tensors, by name without prefix, are exactly those of a model of this size.

    Raises: FormatError naming the first that is not.
    """
    expected = {format_.output}  # some files hold both of the tied weights
    for weight in format_.weights(config):
        found = shapes.get(weight.name)
        if found is None:
            raise FormatError(
                f"{folder}: the weights lack {weight.name}, of shape {weight.shape} according to config.json; "
                "download them again, or correct config.json"
            )
        if found != weight.shape:
            raise FormatError(
                f"{folder}: {weight.name} has shape {found}, but according to config.json {weight.shape}; "
                "download the weights again, or correct config.json"
            )
        expected.add(weight.name)
    output, embedding = shapes.get(format_.output), shapes[format_.embedding]
    if output is not None and output != embedding:
        raise FormatError(
            f"{folder}: {format_.output} has shape {output}, but {format_.embedding}, its twin, {embedding}; "
            "download the weights again"
        )
    if unexpected := sorted(shapes.keys() - expected):
        raise FormatError(
            f"{folder}: the weights hold {shown(unexpected[0])} of shape {shapes[unexpected[0]]}"
            f"{f' and {len(unexpected) - 1} more' if len(unexpected) > 1 else ''}, which a {format_.name} of "
            f"{config.n_layers} layers lacks; save it as {format_.architecture}, or correct config.json"
        )


def _safetensors_shapes(file: Path, format_: Format) -> dict[str, tuple[int, ...]]:
    """Read the shapes of all tensors from the file's header."""
    from safetensors import SafetensorError, safe_open

    _check_regular(file)
    try:
        with safe_open(file, framework="numpy") as tensors:
            names = [name for name in tensors.keys() if not _is_ignored(name, format_)]  # noqa: SIM118, not a mapping
            slices = {name: tensors.get_slice(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from None
    for name, part in slices.items():
        if part.get_dtype() not in FLOAT_DTYPES:
            raise _not_floats(file, name, part.get_dtype())
    return {name: tuple(part.get_shape()) for name, part in slices.items()}


def _read_tensors(file: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    _check_regular(file)
    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else load_torch_file(file, mmap=True, legacy=True)
    except Exception as error:  # safetensors raises several types for damaged and foreign files
        raise _unreadable(file, error) from None
    if not isinstance(tensors, dict):
        raise FormatError(f"{file} holds {type(tensors).__name__}, not tensors by name; choose another folder")
    return {str(name): tensor for name, tensor in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise FormatError(
            f"{path} does not exist; give a folder that transformers' save_pretrained or scripts/export.py wrote"
        ) from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}); download it again") from None
    except UntrustedFileError as error:
        raise FormatError(str(error)) from None


def _check_regular(file: Path) -> None:
    try:
        check_regular(file)
    except OSError as error:
        raise _unreadable(file, error) from None
    except UntrustedFileError as error:
        raise FormatError(str(error)) from None


def _unreadable(file: Path, error: Exception) -> FormatError:
    return FormatError(f"{file} cannot be read ({_first_line(error)}); download or export it again")


def _not_floats(file: Path, name: str, dtype: object) -> FormatError:
    return FormatError(f"{file}: {shown(name)} holds {dtype}, not floating-point numbers; choose another folder")


def _first_line(error: BaseException) -> str:
    return shown(error).strip().rstrip(".") or type(error).__name__
