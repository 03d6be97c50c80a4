"""GPT-2 as Hugging Face keeps it: a folder of config.json and the weights. Needs no torch but for old .bin files.

Source: `transformers`, models/gpt2/configuration_gpt2.py and modeling_gpt2.py. `folio.models.pretrained` reads and
writes the weights; what can be said about a folder without them is said here.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from folio.models.transformer_config import Activation, TransformerConfig

PREFIX = "transformer."
"""Of all names but lm_head's in a model with an output layer; the oldest files lack it."""


IGNORED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Causal masks that older versions of transformers wrote beside the weights."""


WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which transformers prefers them; an index names the files of a model in pieces."""


FLOATS = ("F64", "F32", "F16", "BF16")
"""What safetensors calls the types that weights may have."""


# GPT2Config's own: a folder may leave out what is usual.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 50_257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
}


# Switches that change the function; no GPT of ours has them.
FIXED: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


FIELDS = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "d_model": "n_embd",
    "d_ff": "n_inner",
}
"""Our names for GPT-2's."""


ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
}


# What else a GPT of ours may be, and GPT-2 is not.
GPT2_KIND: dict[str, Any] = {
    "family": "decoder",
    "positional_encoding": "learned",
    "norm_position": "pre",
    "norm": "layer_norm",
    "qk_norm": False,
}


GPT2_SYMBOLS = 50_257


END_OF_TEXT = 50_256
"""The last symbol of GPT-2's tokenizer."""


class GPT2FormatError(ValueError):
    """A folder that holds no GPT-2, or a model that GPT-2's format cannot hold, in one line."""


class Weight(NamedTuple):
    """One tensor in GPT-2's files and in our GPT."""

    name: str
    """GPT-2's, without the prefix."""
    parameter: str
    """Ours."""
    shape: tuple[int, ...]
    """In the file."""
    transposed: bool = False
    """GPT-2's layers multiply from the right: their weight is (inputs, outputs), that of nn.Linear the reverse."""


def weights_of(config: TransformerConfig) -> Iterator[Weight]:
    """Every tensor of a GPT-2 of this size."""
    width, inner = config.d_model, config.feed_forward_width
    yield Weight("wte.weight", "token_embedding.weight", (config.vocab_size, width))
    yield Weight("wpe.weight", "positional_encoding.embedding.weight", (config.context_length, width))
    for layer in range(config.n_layers):
        theirs, ours = f"h.{layer}", f"blocks.{layer}"
        yield from _norm(f"{theirs}.ln_1", f"{ours}.attention_norm", width)
        yield from _linear(f"{theirs}.attn.c_attn", f"{ours}.attention.qkv_projection", width, 3 * width)
        yield from _linear(f"{theirs}.attn.c_proj", f"{ours}.attention.out_projection", width, width)
        yield from _norm(f"{theirs}.ln_2", f"{ours}.feed_forward_norm", width)
        yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}.feed_forward.in_projection", width, inner)
        yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}.feed_forward.out_projection", inner, width)
    yield from _norm("ln_f", "final_norm", width)
    if not config.tie_weights:
        yield Weight("lm_head.weight", "output.weight", (config.vocab_size, width))


def _norm(name: str, parameter: str, width: int) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{parameter}.weight", (width,))
    yield Weight(f"{name}.bias", f"{parameter}.bias", (width,))


def _linear(name: str, parameter: str, n_inputs: int, n_outputs: int) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{parameter}.weight", (n_inputs, n_outputs), transposed=True)
    yield Weight(f"{name}.bias", f"{parameter}.bias", (n_outputs,))


def read_gpt2_config(folder: Path) -> TransformerConfig:
    """The size and shape of the GPT-2 in a folder; its dropout is left to training. Raises: GPT2FormatError."""
    if not folder.is_dir():
        raise GPT2FormatError(f"{folder} is not a folder; give one with GPT-2's config.json and model.safetensors")
    path = folder / "config.json"
    values = _read_json(path)
    for key, needed in FIXED.items():
        value = values.get(key, None if key == "model_type" else needed)
        if value != needed:
            raise GPT2FormatError(
                f"{path}: {key}={json.dumps(value)} is not GPT-2's {json.dumps(needed)}, and Folio's GPT computes "
                "nothing else; choose another folder"
            )
    values = DEFAULTS | values
    activation = values["activation_function"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise GPT2FormatError(
            f"{path}: activation_function={json.dumps(activation)} is not one of {', '.join(ACTIVATIONS)}; "
            "choose another folder"
        )
    if not isinstance(values["tie_word_embeddings"], bool):
        raise GPT2FormatError(f"{path}: tie_word_embeddings={values['tie_word_embeddings']!r} must be true or false")
    try:
        return TransformerConfig(
            **{ours: _whole_number(path, theirs, values[theirs]) for ours, theirs in FIELDS.items()},
            tie_weights=values["tie_word_embeddings"],
            activation=ACTIVATIONS[activation],
        )
    except GPT2FormatError:
        raise
    except ValueError as error:
        message = re.sub(r"\w+(?==)", lambda match: FIELDS.get(match[0], match[0]), str(error))
        raise GPT2FormatError(f"{path}: {message}") from None


def _whole_number(path: Path, key: str, value: Any) -> Any:
    if type(value) is int or (value is None and DEFAULTS[key] is None):
        return value
    raise GPT2FormatError(f"{path}: {key}={json.dumps(value)} must be a whole number")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GPT2FormatError(f"{path} does not exist; give a folder that Hugging Face's GPT-2 was saved in") from None
    except (OSError, ValueError, RecursionError) as error:
        raise GPT2FormatError(f"{path} cannot be read ({first_line(error)}); download it again") from None
    if not isinstance(values, dict):
        raise GPT2FormatError(f"{path} holds no JSON object; download it again")
    return values


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, of which transformers would take the same. Raises: GPT2FormatError."""
    name = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if name is None:
        raise GPT2FormatError(f"{folder} has none of {', '.join(WEIGHT_FILES)}; download or export the weights again")
    if not name.endswith(".index.json"):
        return [folder / name]
    weight_map = _read_json(folder / name).get("weight_map")
    pieces = list(weight_map.values()) if isinstance(weight_map, dict) else []
    kind = Path(name.removesuffix(".index.json")).suffix
    for piece in pieces:
        if not isinstance(piece, str) or Path(piece).name != piece or Path(piece).suffix != kind:
            raise GPT2FormatError(f"{folder / name}: weight_map names {piece!r}, which is no {kind} file beside it")
        if not (folder / piece).is_file():
            raise GPT2FormatError(f"{folder / piece} does not exist, though {name} names it; download it again")
    if not pieces:
        raise GPT2FormatError(f"{folder / name} names no files in weight_map; download it again")
    return [folder / piece for piece in sorted(set(pieces))]


def short_names(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Name without prefix -> name in the file, without what is no weight. Raises: GPT2FormatError for twins."""
    short: dict[str, str] = {}
    for name in names:
        key = name.removeprefix(PREFIX)
        if key in short:
            raise GPT2FormatError(f"{folder}: the weights hold {short[key]} and {name}, which are one tensor; keep one")
        if not IGNORED.fullmatch(key):
            short[key] = name
    return short


def check_shapes(shapes: Mapping[str, tuple[int, ...]], config: TransformerConfig, folder: Path) -> None:
    """Check that the tensors, by short name, are those of a GPT-2 of this size, no less and no more.

    Raises: GPT2FormatError naming the first that is not.
    """
    expected = {"lm_head.weight"}  # of tied weights some files hold both
    for weight in weights_of(config):
        found = shapes.get(weight.name)
        if found is None:
            raise GPT2FormatError(
                f"{folder}: the weights lack {weight.name}, of shape {weight.shape} by config.json; "
                "download them again, or correct config.json"
            )
        if found != weight.shape:
            raise GPT2FormatError(
                f"{folder}: {weight.name} has shape {found}, and config.json makes it {weight.shape}; "
                "download the weights again, or correct config.json"
            )
        expected.add(weight.name)
    head, embedding = shapes.get("lm_head.weight"), shapes["wte.weight"]
    if head is not None and head != embedding:
        raise GPT2FormatError(f"{folder}: lm_head.weight has shape {head}, and wte.weight, its twin, {embedding}")
    if strangers := sorted(shapes.keys() - expected):
        raise GPT2FormatError(
            f"{folder}: the weights hold {strangers[0]} of shape {shapes[strangers[0]]}"
            f"{f' and {len(strangers) - 1} more' if len(strangers) > 1 else ''}, which a GPT-2 of "
            f"{config.n_layers} layers lacks; save it as GPT2LMHeadModel, or correct config.json"
        )


def unreadable(file: Path, error: Exception) -> GPT2FormatError:
    return GPT2FormatError(f"{file} cannot be read ({first_line(error)}); download or export it again")


def not_floats(file: Path, name: str, dtype: object) -> GPT2FormatError:
    return GPT2FormatError(f"{file}: {name} holds {dtype}, not floating-point numbers; choose another folder")


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def gpt2_config_json(config: TransformerConfig) -> dict[str, Any]:
    """config.json of a model of ours. Raises: GPT2FormatError where GPT-2's format cannot hold it."""
    for field, needed in GPT2_KIND.items():
        value = getattr(config, field)
        if value != needed:
            raise GPT2FormatError(
                f"{_shown(field, value)}: GPT-2's format knows {_shown(field, needed)} alone; "
                "a model of another kind can only stay in its run folder"
            )
    activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation), None)
    if activation is None:
        raise GPT2FormatError(
            f"activation={config.activation}: GPT-2's format knows {', '.join(dict.fromkeys(ACTIVATIONS.values()))} "
            "alone; a model of another kind can only stay in its run folder"
        )
    has_gpt2_symbols = GPT2_SYMBOLS <= config.vocab_size <= -(-GPT2_SYMBOLS // 128) * 128
    end_of_text = END_OF_TEXT if has_gpt2_symbols else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **FIXED,
        **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
        "n_ctx": config.context_length,  # read by versions of transformers before 3.5
        "activation_function": activation,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop"), config.dropout),
        "attn_pdrop": config.attention_dropout_rate,
        "tie_word_embeddings": config.tie_weights,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }


def _shown(field: str, value: object) -> str:
    return f"{field}={str(value).lower()}"


def check_target(folder: Path, overwrite: bool) -> None:
    """Raises: GPT2FormatError where writing there would mix with, or replace, what somebody has."""
    if folder.exists() and not folder.is_dir():
        raise GPT2FormatError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise GPT2FormatError(
            f"{folder} is not empty; name a new folder, or replace its config.json and model.safetensors with --force"
        )
