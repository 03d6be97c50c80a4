"""Look at a pickle before torch reads it: what it would call, and how much memory it would ask for.

`torch.load(weights_only=True)` runs no code of a file, yet lets it call `bytearray(n)`, of which a few bytes ask for
gigabytes. Here the pickle is read once by an interpreter that knows only the opcodes of torch.save, and inert
stand-ins for everything that the pickle names.
"""

import io
import math
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_PICKLE_BYTES = 64 * 2**20
"""Limit for the structure of a checkpoint, without its tensors' values; that of a model of 1,000 layers has 2 MB."""

MAX_OPCODES = 2_000_000
"""Limit for the values of a checkpoint: an opcode of one byte makes an object of up to 200. A tensor takes about 30."""

MAX_SHARES = 8
"""Limit for the tensors that share their values: a model with tied weights has up to four names for one embedding.

Each is copied into the model, so thousands of layers could otherwise have the values of one.
"""

CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
"""Opcodes that put one value on the stack."""

LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
"""Opcodes that put their argument on the stack."""

TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
"""Opcodes that make a tuple of the topmost values, with their number."""

STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1,
}  # fmt: skip
"""Names of torch's storages, with the bytes of one value."""

CALLABLES = {"OrderedDict", "_rebuild_tensor_v2", "_rebuild_parameter", "Size", "device", "encode"}
"""Names that a checkpoint of plain values and tensors calls."""

NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "_codecs encode",  # bytes, which protocol 2 writes as text
}

DTYPES = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


class UnsafePickleError(ValueError):
    """A pickle that asks for more than tensors and plain values."""


@dataclass(frozen=True)
class Named:
    """Stands for a function or class that a pickle names."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Stands for the values of a tensor, which lie outside the pickle."""

    key: str
    n_values: int


class Inert:
    """Stands for a tensor and other results of calls."""


def check_pickle(
    data: bytes, file_bytes: int, *, n_pickles: int = 1, record_bytes: Mapping[str, int] | None = None
) -> None:
    """Check what torch.save wrote into a zip archive as data.pkl, or in older files as several pickles in sequence.

    Args:
        data: the pickle, or n_pickles of them, with any other bytes behind.
        file_bytes: size of the file around it: all tensors together cannot hold more.
        record_bytes: size of each record of the archive that holds the values of tensors, by its key.

    Raises: UnsafePickleError with what it holds that torch.save does not write.
    """
    stream = io.BytesIO(data)
    for _ in range(n_pickles):
        try:
            _Interpreter(file_bytes, record_bytes).run(stream)
        except UnsafePickleError:
            raise
        except Exception as error:  # a malformed pickle raises anything
            raise UnsafePickleError(f"no pickle: {type(error).__name__}") from None


class _Interpreter:
    """Builds the structure of a pickle from plain values and inert stand-ins: it imports nothing and calls nothing.

    It knows the opcodes of protocol 2 that torch.save writes. The standard library's, in C, allocates memory for the
    highest number that a pickle gives to a value, and runs out of stack in the hash of a deep tuple.
    """

    def __init__(self, file_bytes: int, record_bytes: Mapping[str, int] | None) -> None:
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._file_bytes = file_bytes
        self._record_bytes = record_bytes
        self._storages: dict[str, int] = {}
        self._n_viewed: Counter[str] = Counter()
        self._n_stored = self._n_encoded = 0

    def run(self, stream: io.BytesIO) -> None:
        """Read one pickle, up to its end."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number == MAX_OPCODES:
                raise UnsafePickleError(f"more than {MAX_OPCODES:,} values")
            self._step(opcode.name, argument)

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case _ if opcode in LITERALS:
                stack.append(argument)
            case _ if opcode in CONSTANTS:
                stack.append(CONSTANTS[opcode])
            case _ if opcode in TUPLES:
                n_values = TUPLES[opcode]
                stack[-n_values:] = [(*stack[-n_values:],)]
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                self.outer_stacks.append(stack)
                self.stack = []
            case "TUPLE":
                values = self._values_since_mark()
                self.stack.append((*values,))
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._values_since_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._values_since_mark())
            case "GLOBAL":
                stack.append(_named(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case "BUILD":
                self._build(stack.pop())
            case "SHORT_BINSTRING" if argument.isascii():
                stack.append(argument)
            case "PROTO" if argument == 2:
                pass
            case "STOP":
                stack.pop()
            case _:
                raise UnsafePickleError(f"the opcode {opcode}, which torch.save does not write")

    def _values_since_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.outer_stacks.pop()
        return values

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise UnsafePickleError("a value appended to something that is no list")
        self.stack[-1].extend(values)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise UnsafePickleError("an item of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Nested tuples as keys take exponential time, or more stack than there is.
            if not isinstance(key, str | int | float | None):
                raise UnsafePickleError("a key that is neither text nor a number")
            target[key] = value

    def _build(self, attributes: Any) -> None:
        """Check the attributes of an object: torch.save writes those of the OrderedDict of a state dict.

        Any others could take the place of its methods.
        """
        match self.stack[-1], attributes:
            case OrderedDict(), {"_metadata": OrderedDict(), **others} if not others:
                pass
            case _:
                raise UnsafePickleError("attributes that torch.save does not write")

    def _storage(self, pid: Any) -> Storage:
        """Check the storage that a tensor names: ('storage', type, key, location, number of values)."""
        match pid:
            case ("storage", Named(name=name), str() as key, str(), int() as n_values, *rest) if name in STORAGES:
                n_bytes = n_values * STORAGES[name]
            case _:
                raise UnsafePickleError("a storage that torch.save does not write")
        if rest not in ([], [None]):
            raise UnsafePickleError("a view of a storage, which torch.save stopped writing long ago")
        known = self._storages.setdefault(key, 0)
        self._n_stored += max(0, n_bytes - known)
        self._storages[key] = max(n_bytes, known)
        if n_values < 0 or self._n_stored > self._file_bytes:
            raise UnsafePickleError("tensors larger than the file")
        if self._record_bytes is not None and self._record_bytes.get(key) != n_bytes:
            raise UnsafePickleError(f"a tensor whose values in data/{key[:100]} are missing or of another size")
        return Storage(key, n_values)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Named) or function.name not in CALLABLES or not isinstance(arguments, tuple):
            raise UnsafePickleError("a call that torch.save does not write")
        if function.name == "encode":
            return self._encode(arguments)
        if function.name == "_rebuild_tensor_v2":
            return self._tensor(arguments)
        return _call_inert(function.name, arguments)

    def _tensor(self, arguments: tuple[Any, ...]) -> Inert:
        match arguments:
            case (Storage() as storage, int() as offset, tuple() as shape, tuple() as strides, *rest):
                _check_view(storage, offset, shape, strides)
            case _:
                raise UnsafePickleError("a tensor that torch.save does not write")
        if len(rest) not in (2, 3) or (len(rest) == 3 and rest[2] is not None):
            raise UnsafePickleError("a tensor with metadata")
        self._n_viewed[storage.key] += math.prod(shape)
        if self._n_viewed[storage.key] > MAX_SHARES * storage.n_values:
            raise UnsafePickleError(f"more than {MAX_SHARES} tensors that share their values")
        return Inert()

    def _encode(self, arguments: tuple[Any, ...]) -> bytes:
        match arguments:
            case (str() as text, "latin1"):
                self._n_encoded += len(text)
            case _:
                raise UnsafePickleError("bytes that torch.save does not write")
        if self._n_encoded > self._file_bytes:  # one text made into bytes many times
            raise UnsafePickleError("bytes larger than the file")
        return b""


def _named(name: str) -> Named:
    """Return the stand-in for a module and a name in it, separated by a space."""
    module, _, attribute = name.partition(" ")
    is_storage = module in ("torch", "torch.storage") and attribute in STORAGES
    is_dtype = module == "torch" and attribute in DTYPES
    if name not in NAMES and not is_storage and not is_dtype:
        raise UnsafePickleError(f"the name {name[:200]}")
    return Named(attribute)


def _call_inert(name: str, arguments: tuple[Any, ...]) -> Any:
    match name, arguments:
        case "OrderedDict", ():
            return OrderedDict()
        case "_rebuild_parameter", (Inert(), bool(), OrderedDict()):
            return Inert()
        case "Size", (tuple() | list(),):
            return Inert()
        case "device", (str(),) | (str(), int()):
            return Inert()
        case _:
            raise UnsafePickleError(f"a call of {name} that torch.save does not write")


def _check_view(storage: Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> None:
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > 64 or any(type(number) is not int for number in numbers):
        raise UnsafePickleError("a tensor without a shape")
    if min(numbers) < 0 or max(numbers) >= 2**63:
        raise UnsafePickleError("a tensor whose shape or strides are no sizes")
    if 0 in shape:
        return
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # With strides of 0 a few values would stand for as many as the shape says.
    if math.prod(shape) > storage.n_values or last >= storage.n_values:
        raise UnsafePickleError(f"a tensor of shape {list(shape)}, but the file does not hold that many values")
