"""Look at a pickle before torch reads it: what it would call, and how much memory it would ask for.

`torch.load(weights_only=True)` runs no code of a file, yet lets it call `bytearray(n)`, of which a few bytes ask for
gigabytes. Here the opcodes are checked against those that torch.save writes, and the pickle is read once with inert
stand-ins for everything it names.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from typing import Any

MAX_PICKLE_BYTES = 64 * 2**20
"""Limit for the structure of a checkpoint, without its tensors' values; that of a model of 1,000 layers has 2 MB."""

OPCODES = frozenset(
    [
        "PROTO",
        "STOP",
        "MARK",
        "EMPTY_DICT",
        "EMPTY_LIST",
        "EMPTY_SET",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "SETITEM",
        "SETITEMS",
        "APPEND",
        "APPENDS",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "BINPUT",
        "LONG_BINPUT",
        "BINGET",
        "LONG_BINGET",
        "GLOBAL",
        "REDUCE",
        "BUILD",
        "BINPERSID",
    ]
)
"""The opcodes of torch.save's pickles, protocol 2."""

STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1,
}  # fmt: skip
"""Names of torch's storages, with the bytes of one value."""

CALLABLES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "_codecs encode",
}
"""Names that a checkpoint of plain values and tensors calls."""


class UnsafePickleError(ValueError):
    """A pickle that asks for more than tensors and plain values."""


def check_pickle(data: bytes, file_bytes: int, n_pickles: int = 1) -> None:
    """Check the pickles of torch.save.

    Args:
        data: the pickles, one after the other, and anything behind them.
        file_bytes: size of the file around them: no tensor can hold more.
        n_pickles: number of them, 5 in files from before torch 1.6.

    Raises: UnsafePickleError with what it holds that torch.save does not write.
    """
    stream = io.BytesIO(data)
    for _ in range(n_pickles):
        start = stream.tell()
        _check_opcodes(stream)
        end = stream.tell()
        stream.seek(start)
        _read_inert(stream, file_bytes)
        stream.seek(end)


def _check_opcodes(stream: io.BytesIO) -> None:
    try:
        for opcode, _, _ in pickletools.genops(stream):
            if opcode.name not in OPCODES:
                raise UnsafePickleError(f"the opcode {opcode.name}, which torch.save does not write")
    except UnsafePickleError:
        raise
    except Exception as error:  # genops asserts, and decodes text
        raise UnsafePickleError(f"no pickle: {type(error).__name__}") from None


def _read_inert(stream: io.BytesIO, file_bytes: int) -> None:
    try:
        _InertUnpickler(stream, file_bytes).load()
    except UnsafePickleError:
        raise
    except Exception as error:  # a malformed pickle raises anything
        raise UnsafePickleError(f"no pickle: {type(error).__name__}") from None


class _Inert:
    """Stands for anything that a pickle names: it accepts every call and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.name: str | None = None

    def __call__(self, *args: Any) -> "_Inert":
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        pass


class _InertUnpickler(pickle.Unpickler):
    """Reads the structure of a pickle. `find_class` imports nothing, so nothing can be called but `_Inert`."""

    def __init__(self, stream: io.BytesIO, file_bytes: int) -> None:
        super().__init__(stream)
        self._file_bytes = file_bytes

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module} {name}"
        if full == "collections OrderedDict":
            return OrderedDict
        is_dtype = module == "torch" and name.islower() and name.replace("_", "").isalnum()
        is_storage = module in ("torch", "torch.storage") and name in STORAGES
        if full not in CALLABLES and not is_dtype and not is_storage:
            raise UnsafePickleError(f"the name {module}.{name}"[:200])
        inert = _Inert()
        inert.name = name
        return inert

    def persistent_load(self, pid: Any) -> Any:
        """Check the storage that a tensor names: ('storage', type, key, location, number of values)."""
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _Inert)):
            raise UnsafePickleError("a storage that torch.save does not write")
        n_values, value_bytes = pid[4], STORAGES.get(pid[1].name or "", 1)
        if not isinstance(n_values, int) or not 0 <= n_values * value_bytes <= self._file_bytes:
            raise UnsafePickleError("a tensor larger than the file")
        return _Inert()
