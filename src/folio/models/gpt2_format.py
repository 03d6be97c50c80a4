"""GPT-2 in Hugging Face's format, a folder of config.json and the weights; `pretrained` loads and saves it.

Source: `transformers`, models/gpt2/configuration_gpt2.py and modeling_gpt2.py. Here are the names and shapes, and all
checks. A folder of safetensors is checked without importing torch; only old .bin files need it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from folio.models.transformer_config import Activation, TransformerConfig
from folio.runtime.torch_files import check_tensor_sizes, load_torch_file
from folio.runtime.untrusted import UntrustedFileError, check_regular, read_json_object, shown

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "transformer."
"""Prefix of all names but lm_head's in a model with an output layer. The oldest files lack it."""

GPT2_VOCAB_SIZE = 50_257
END_OF_TEXT = 50_256
"""Id of the last symbol of GPT-2's tokenizer."""

CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "d_model": "n_embd",
    "d_ff": "n_inner",
}
"""Folio's name -> the key in config.json."""

SUPPORTED_OPTIONS = {
    *CONFIG_KEYS,
    "dropout",
    "attention_dropout",
    "feed_forward_dropout",
    "bias",  # zeros if the model has none
    "attention_bias",
    "tie_weights",
    "activation",
    "init",
    "post_norm_dropout",  # GPT-2's norms come first
    "positional_base",  # learned positions have none
    "positional_width",
    "positional_init",
    "conditioning",  # a decoder has none
}
"""The options that may have other values than GPT-2's: the format can express them, or they change no result."""

GPT2_ARCHITECTURE: dict[str, Any] = {
    option.name: option.default for option in fields(TransformerConfig) if option.name not in SUPPORTED_OPTIONS
} | {"final_norm": True, "scale_embedding": False}
"""All other options, and GPT-2's values, which are the defaults, or what None stands for by default."""

CONFIG_DEFAULTS: dict[str, Any] = {
    "vocab_size": GPT2_VOCAB_SIZE,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
}
"""GPT2Config's defaults: config.json may leave these keys out."""

FIXED_KEYS: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
"""Keys of config.json that change what the model computes, and the only values that Folio's GPT supports."""

ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
}
"""activation_function in config.json -> Folio's name."""

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which transformers prefers them. An index names the files of a model in pieces."""

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
"""The dtypes that weights may have, as safetensors names them."""

NOT_WEIGHTS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Names of causal masks, which older versions of transformers wrote beside the weights."""


class GPT2FormatError(ValueError):
    """Raised for a folder that holds no GPT-2, or a model that the format cannot hold; the message is one line."""


# config.json


def read_gpt2_config(folder: Path) -> TransformerConfig:
    """Read the size and shape of the GPT-2 in a folder, but not its dropout. Raises: GPT2FormatError."""
    if not folder.is_dir():
        raise GPT2FormatError(f"{folder} is not a folder; give one with GPT-2's config.json and model.safetensors")
    path = folder / "config.json"
    values = _read_json(path)
    for key, needed in FIXED_KEYS.items():
        value = values.get(key, None if key == "model_type" else needed)
        if value != needed:
            raise GPT2FormatError(
                f"{path}: {key}={shown(json.dumps(value))} is not GPT-2's {json.dumps(needed)}, the only value that "
                "Folio's GPT supports; choose another folder"
            )
    values = CONFIG_DEFAULTS | values
    activation = values["activation_function"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise GPT2FormatError(
            f"{path}: activation_function={shown(json.dumps(activation))} is not one of {', '.join(ACTIVATIONS)}; "
            "choose another folder"
        )
    if not isinstance(values["tie_word_embeddings"], bool):
        raise GPT2FormatError(
            f"{path}: tie_word_embeddings={shown(repr(values['tie_word_embeddings']))} must be true or false"
        )
    sizes = {ours: _whole_number(path, theirs, values[theirs]) for ours, theirs in CONFIG_KEYS.items()}
    try:
        return TransformerConfig(**sizes, tie_weights=values["tie_word_embeddings"], activation=ACTIVATIONS[activation])
    except ValueError as error:
        message = re.sub(r"\w+(?==)", lambda match: CONFIG_KEYS.get(match[0], match[0]), str(error))
        raise GPT2FormatError(f"{path}: {message}") from None


def gpt2_config_json(config: TransformerConfig) -> dict[str, Any]:
    """Return the content of config.json. Raises: GPT2FormatError if the format cannot hold such a model."""
    for option, needed in GPT2_ARCHITECTURE.items():
        value = getattr(config, option)
        if value is not None and value != needed:
            raise GPT2FormatError(
                f"{_option(option, value)}: GPT-2's format supports only {_option(option, needed)}; "
                "a model of another kind can only stay in its run folder"
            )
    activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation), None)
    if activation is None:
        raise GPT2FormatError(
            f"activation={config.activation}: GPT-2's format supports only "
            f"{', '.join(dict.fromkeys(ACTIVATIONS.values()))}; a model of another kind can only stay in its run folder"
        )
    has_gpt2_symbols = GPT2_VOCAB_SIZE <= config.vocab_size <= -(-GPT2_VOCAB_SIZE // 128) * 128
    end_of_text = END_OF_TEXT if has_gpt2_symbols else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **FIXED_KEYS,
        **{theirs: getattr(config, ours) for ours, theirs in CONFIG_KEYS.items()},
        "n_ctx": config.context_length,  # read by versions of transformers before 3.5
        "activation_function": activation,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop"), config.dropout),
        "attn_pdrop": config.attention_dropout_rate,
        "tie_word_embeddings": config.ties_weights,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }


def check_export_folder(folder: Path, overwrite: bool) -> None:
    """Raises: GPT2FormatError if writing there would mix with, or replace, files that exist."""
    if folder.exists() and not folder.is_dir():
        raise GPT2FormatError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise GPT2FormatError(
            f"{folder} is not empty; name a new folder, or replace its config.json and model.safetensors with --force"
        )


def _whole_number(path: Path, key: str, value: Any) -> Any:
    if type(value) is int or (value is None and CONFIG_DEFAULTS[key] is None):
        return value
    raise GPT2FormatError(f"{path}: {key}={shown(json.dumps(value))} must be a whole number")


def _option(name: str, value: object) -> str:
    return f"{name}={'null' if value is None else str(value).lower()}"


# The weights


class GPT2Weight(NamedTuple):
    """One tensor in GPT-2's files and in Folio's GPT.

    Example:

        >>> GPT2Weight("wte.weight", "token_embedding.weight", (50257, 768)).transposed
        False
    """

    name: str
    """GPT-2's name, without the prefix."""
    parameter: str
    """Folio's name."""
    shape: tuple[int, ...]
    """Shape in the file."""
    transposed: bool = False
    """True if the file has (inputs, outputs), since GPT-2 multiplies from the right; nn.Linear has the reverse."""


def gpt2_weights(config: TransformerConfig) -> Iterator[GPT2Weight]:
    """Yield every tensor of a GPT-2 of this size."""
    d_model, d_ff = config.d_model, config.feed_forward_width
    yield GPT2Weight("wte.weight", "token_embedding.weight", (config.vocab_size, d_model))
    yield GPT2Weight("wpe.weight", "positional_encoding.embedding.weight", (config.context_length, d_model))
    for layer in range(config.n_layers):
        theirs, ours = f"h.{layer}", f"blocks.{layer}"
        yield from _norm(f"{theirs}.ln_1", f"{ours}.attention_norm", d_model)
        yield from _linear(f"{theirs}.attn.c_attn", f"{ours}.attention.qkv_projection", d_model, 3 * d_model)
        yield from _linear(f"{theirs}.attn.c_proj", f"{ours}.attention.out_projection", d_model, d_model)
        yield from _norm(f"{theirs}.ln_2", f"{ours}.feed_forward_norm", d_model)
        yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}.feed_forward.in_projection", d_model, d_ff)
        yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}.feed_forward.out_projection", d_ff, d_model)
    yield from _norm("ln_f", "final_norm", d_model)
    if not config.ties_weights:
        yield GPT2Weight("lm_head.weight", "output.weight", (config.vocab_size, d_model))


def _norm(name: str, parameter: str, width: int) -> Iterator[GPT2Weight]:
    yield GPT2Weight(f"{name}.weight", f"{parameter}.weight", (width,))
    yield GPT2Weight(f"{name}.bias", f"{parameter}.bias", (width,))


def _linear(name: str, parameter: str, n_inputs: int, n_outputs: int) -> Iterator[GPT2Weight]:
    yield GPT2Weight(f"{name}.weight", f"{parameter}.weight", (n_inputs, n_outputs), transposed=True)
    yield GPT2Weight(f"{name}.bias", f"{parameter}.bias", (n_outputs,))


def check_gpt2_folder(folder: Path) -> TransformerConfig:
    """Read config.json and check the names and shapes of all weights; for safetensors only the headers are read.

    Raises: GPT2FormatError.
    """
    config = read_gpt2_config(folder)
    files = _weight_files(folder)
    if files[0].suffix == ".safetensors":
        shapes = {name: shape for file in files for name, shape in _safetensors_shapes(file).items()}
        _check_shapes({short: shapes[name] for short, name in _short_names(shapes, folder).items()}, config, folder)
    else:
        read_gpt2_weights(folder, config)
    return config


def read_gpt2_weights(folder: Path, config: TransformerConfig) -> "dict[str, Tensor]":
    """Read all tensors of a GPT-2 of this size: name without prefix -> tensor as in the file.

    Raises: GPT2FormatError.
    """
    import torch

    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        for name, tensor in _read_tensors(file).items():
            if _is_mask(name):
                continue
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                is_tensor = isinstance(tensor, torch.Tensor)
                raise _not_floats(file, name, tensor.dtype if is_tensor else type(tensor).__name__)
            tensors[name] = tensor
    try:
        check_tensor_sizes(tensors)
    except ValueError as error:
        raise GPT2FormatError(f"{folder}: {error}; choose another folder") from None
    found = {short: tensors[name] for short, name in _short_names(tensors, folder).items()}
    _check_shapes({name: tuple(tensor.shape) for name, tensor in found.items()}, config, folder)
    if config.ties_weights and not torch.equal(found.get("lm_head.weight", found["wte.weight"]), found["wte.weight"]):
        raise GPT2FormatError(
            f"{folder}: lm_head.weight differs from wte.weight, though config.json ties them; "
            "set tie_word_embeddings to false there, or remove lm_head.weight"
        )
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, the same that transformers would read. Raises: GPT2FormatError."""
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        raise GPT2FormatError(f"{folder} has none of {', '.join(WEIGHT_FILES)}; download or export the weights again")
    if not name.endswith(".index.json"):
        return [folder / name]
    weight_map = _read_json(folder / name).get("weight_map")
    pieces = list(weight_map.values()) if isinstance(weight_map, dict) else []
    suffix = Path(name.removesuffix(".index.json")).suffix
    for piece in pieces:
        if not isinstance(piece, str) or Path(piece).name != piece or Path(piece).suffix != suffix:
            raise GPT2FormatError(
                f"{folder / name}: weight_map names {shown(repr(piece))}, which is no {suffix} file beside it"
            )
        if not (folder / piece).exists():
            raise GPT2FormatError(f"{folder / piece} does not exist, though {name} names it; download it again")
    if not pieces:
        raise GPT2FormatError(f"{folder / name} names no files in weight_map; download it again")
    return [folder / piece for piece in sorted(set(pieces))]


def _is_mask(name: str) -> bool:
    """Return whether a tensor is a causal mask, which is dropped whatever its type and shape."""
    return NOT_WEIGHTS.fullmatch(name.removeprefix(PREFIX)) is not None


def _short_names(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Map each weight's name without prefix to its name in the file. Raises: GPT2FormatError for duplicates."""
    short: dict[str, str] = {}
    for name in names:
        key = name.removeprefix(PREFIX)
        if key in short:
            raise GPT2FormatError(
                f"{folder}: the weights hold {shown(short[key])} and {shown(name)}, which are one tensor; keep one"
            )
        short[key] = name
    return short


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], config: TransformerConfig, folder: Path) -> None:
    """Check that the tensors, by name without prefix, are exactly those of a GPT-2 of this size.

    Raises: GPT2FormatError naming the first that is not.
    """
    expected = {"lm_head.weight"}  # some files hold both of the tied weights
    for weight in gpt2_weights(config):
        found = shapes.get(weight.name)
        if found is None:
            raise GPT2FormatError(
                f"{folder}: the weights lack {weight.name}, of shape {weight.shape} according to config.json; "
                "download them again, or correct config.json"
            )
        if found != weight.shape:
            raise GPT2FormatError(
                f"{folder}: {weight.name} has shape {found}, but according to config.json {weight.shape}; "
                "download the weights again, or correct config.json"
            )
        expected.add(weight.name)
    head, embedding = shapes.get("lm_head.weight"), shapes["wte.weight"]
    if head is not None and head != embedding:
        raise GPT2FormatError(f"{folder}: lm_head.weight has shape {head}, but wte.weight, its twin, {embedding}")
    if unexpected := sorted(shapes.keys() - expected):
        raise GPT2FormatError(
            f"{folder}: the weights hold {shown(unexpected[0])} of shape {shapes[unexpected[0]]}"
            f"{f' and {len(unexpected) - 1} more' if len(unexpected) > 1 else ''}, which a GPT-2 of "
            f"{config.n_layers} layers lacks; save it as GPT2LMHeadModel, or correct config.json"
        )


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of all tensors from the file's header."""
    from safetensors import SafetensorError, safe_open

    _check_regular(file)
    try:
        with safe_open(file, framework="numpy") as tensors:
            names = [name for name in tensors.keys() if not _is_mask(name)]  # noqa: SIM118, not a mapping
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
        raise GPT2FormatError(f"{file} holds {type(tensors).__name__}, not tensors by name; choose another folder")
    return {str(name): tensor for name, tensor in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise GPT2FormatError(
            f"{path} does not exist; give a folder into which Hugging Face's GPT-2 was saved"
        ) from None
    except OSError as error:
        raise GPT2FormatError(f"{path} cannot be read ({error.strerror}); download it again") from None
    except UntrustedFileError as error:
        raise GPT2FormatError(str(error)) from None


def _check_regular(file: Path) -> None:
    try:
        check_regular(file)
    except OSError as error:
        raise _unreadable(file, error) from None
    except UntrustedFileError as error:
        raise GPT2FormatError(str(error)) from None


def _unreadable(file: Path, error: Exception) -> GPT2FormatError:
    return GPT2FormatError(f"{file} cannot be read ({_first_line(error)}); download or export it again")


def _not_floats(file: Path, name: str, dtype: object) -> GPT2FormatError:
    return GPT2FormatError(f"{file}: {shown(name)} holds {dtype}, not floating-point numbers; choose another folder")


def _first_line(error: BaseException) -> str:
    return shown(error).strip().rstrip(".") or type(error).__name__
